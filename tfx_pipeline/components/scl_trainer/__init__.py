"""SCLTrainer: TFX's Trainer with item content."""

from tfx_pipeline.components.scl_trainer.component import SCLTrainer

__all__ = ["SCLTrainer"]
