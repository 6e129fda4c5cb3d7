"""RankerTrainer: TFX's Trainer with an item table."""

from tfx_pipeline.components.ranker_trainer.component import RankerTrainer

__all__ = ["RankerTrainer"]
