"""The typed configuration of the whole pipeline, read from YAML.

Unknown keys are errors. Every value can be overridden on the command line, as
in ``--set trainer.epochs=2``. Relative paths are relative to the directory in
which the command runs.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import pydantic

from schemas import settings_file
from tfx_pipeline.beam_config import BeamConfig

KEYS = "docs/configuration.md lists all keys"
ModelType = Literal[
    "muse",
    "est",
    "din",
    "full_din",
    "sim_hard",
    "sim_soft",
    "eta",
    "sdim",
    "twin",
    "miss",
]


class DataConfig(settings_file.Section):
    """The raw tables, and how they become requests."""

    raw_dir: str
    """Directory with the raw tables, directly or under ``raw/``."""
    max_candidates: int = pydantic.Field(default=64, ge=1)
    """Largest number of candidates per request; longer lists become several
    requests."""
    max_rejected_fraction: float = pydantic.Field(default=0.01, ge=0, le=1)
    """Share of rejected impressions above which the run fails."""
    join_partitions: int = pydantic.Field(default=0, ge=0)
    """Partitions of the join; 0 chooses them from the size of the tables."""


class TransformConfig(settings_file.Section):
    """The features that TF-Transform computes."""

    max_history: int = pydantic.Field(default=1000, ge=1)
    """Newest behaviors kept per request."""
    vocabulary_frequency_threshold: int = pydantic.Field(default=1, ge=1)
    """Values seen less often share the out-of-vocabulary index."""
    vocabulary_size: int = pydantic.Field(default=1_000_000, ge=1)
    """Number of values kept per feature, the most frequent ones."""


class SCLConfig(settings_file.Section):
    """Training of the item embeddings (``item_embeddings: learned``)."""

    text_encoder: str = ""
    """Encoder of texts: ``sentence:MODEL`` or ``module:function``; empty:
    hashed n-grams."""
    eval_fraction: float = pydantic.Field(default=0.1, gt=0, lt=1)
    """Share of the search events (the newest) on which recall is measured."""
    max_rejected_fraction: float = pydantic.Field(default=0.01, ge=0, le=1)
    """Share of rejected search events above which the run fails."""
    hidden_units: tuple[pydantic.PositiveInt, ...] = (256,)
    """Hidden layers of the tower of each modality."""
    dropout: float = pydantic.Field(default=0.0, ge=0, lt=1)
    """Share of a hidden layer's units that each step drops."""
    shared_tower: bool = True
    """Use the same tower for queries and items."""
    bank_size: int = pydantic.Field(default=4096, ge=0)
    """Keys in the memory bank; 0: no bank."""
    momentum: float = pydantic.Field(default=0.999, ge=0, lt=1)
    """Share of the momentum encoder's weights that each step keeps."""
    bank_weight: float = pydantic.Field(default=0.5, gt=0, le=1)
    """Weight of the bank's losses; the losses of the batch get the rest."""
    temperature: float = pydantic.Field(default=0.07, gt=0)
    """Initial temperature; it is learned."""
    triplet_weight: float = pydantic.Field(default=1.0, ge=0)
    """Weight of the hard negatives' loss; 0: no such loss."""
    margin: float = pydantic.Field(default=0.2, ge=0, le=2)
    """Margin of the cosine distance between positives and hard negatives."""
    hard_negatives: int = pydantic.Field(default=4, ge=0)
    """Largest number of hard negatives (clicked, not purchased) per event; 0:
    none."""
    epochs: int = pydantic.Field(default=4, ge=1)
    """Passes over the training events."""
    batch_events: int = pydantic.Field(default=256, ge=2)
    """Search events per step, on all devices together."""
    learning_rate: float = pydantic.Field(default=3e-3, gt=0)
    """Highest learning rate: it rises during the first tenth of the steps,
    then falls to 0 along a cosine."""
    shuffle_events: int = pydantic.Field(default=65_536, ge=0)
    """Events in the shuffle buffer; 0: no shuffling."""
    seed: int = 1
    """Seed of the initial weights and of shuffling."""
    checkpoint_steps: int = pydantic.Field(default=500, ge=0)
    """Steps between resumable checkpoints; 0: no checkpoints."""
    ablations: bool = False
    """Also train once without the bank and once without hard negatives."""
    evaluated_queries: int = pydantic.Field(default=2000, ge=1)
    """Largest number of held-out events on which recall is measured."""
    max_mean_cosine: float = pydantic.Field(default=0.9, gt=0, lt=1)
    """Mean pairwise cosine above which the tower counts as collapsed."""
    min_variance: float = pydantic.Field(default=1e-5, ge=0)
    """Variance of a dimension below which the tower counts as collapsed."""
    collapse_patience: int = pydantic.Field(default=1, ge=0)
    """Consecutive checks that may find a collapse; one more fails the
    training. There is a check every 50 steps."""


class ModelConfig(settings_file.Section):
    """Architecture of the ranker."""

    type: ModelType = "muse"
    """The method: a preset of ``gsu`` and ``esu``."""
    gsu: (
        Literal[
            "none",
            "category",
            "id_cosine",
            "scl_cosine",
            "target_attention",
            "simhash",
            "dual",
        ]
        | None
    ) = None
    """The search in the long history; null: that of the type."""
    esu: (
        Literal[
            "ta",
            "simtier",
            "simtier_identity",
            "ta_simtier",
            "sa_ta",
            "sa_ta_simtier",
            "sa_ta_simtier_identity",
            "full_ta",
            "sdim",
        ]
        | None
    ) = None
    """The exact search unit, which models the behaviors found; null: that of
    the type."""
    hash_bits: int = pydantic.Field(default=64, ge=1)
    """Bits of the hashes of ``gsu: simhash``."""
    hash_rounds: int = pydantic.Field(default=16, ge=1)
    """Rounds of ``esu: sdim``."""
    embedding_dim: int = pydantic.Field(default=16, ge=1)
    """Width of the trained embeddings."""
    est_depth: int = pydantic.Field(default=2, ge=1)
    """Blocks of ``type: est``."""
    est_width: int = pydantic.Field(default=32, ge=1)
    """Width of tokens and behaviors in these blocks."""
    k: int = pydantic.Field(default=50, ge=1)
    """Behaviors that the GSU retrieves per candidate."""
    recent: int = pydantic.Field(default=50, ge=1)
    """Newest behaviors in the short-term part."""
    num_tiers: int = pydantic.Field(default=20, ge=1)
    """Similarity tiers in SimTier's histogram."""
    num_heads: int = pydantic.Field(default=1, ge=1)
    """Heads of the target attention."""
    hidden_units: tuple[pydantic.PositiveInt, ...] = (256, 128, 64)
    """Hidden layers of the final network."""
    oov_rate: float = pydantic.Field(default=0.01, ge=0, lt=1)
    """Share of item ids that training replaces by the unseen item."""


class TrainerConfig(settings_file.Section):
    """Training of the ranker."""

    epochs: int = pydantic.Field(default=1, ge=1)
    """Passes over the training requests."""
    batch_requests: int = pydantic.Field(default=32, ge=1)
    """Requests per step, on all devices together."""
    learning_rate: float = pydantic.Field(default=2e-4, gt=0)
    """Learning rate of all weights except the embedding tables."""
    table_learning_rate: float = pydantic.Field(default=2e-3, gt=0)
    """Learning rate of the embedding tables."""
    shuffle_requests: int = pydantic.Field(default=4096, ge=0)
    """Requests in the shuffle buffer; 0: no shuffling."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of activations; weights, moments and cosines are float32."""
    seed: int = 1
    """Seed of the initial weights and of shuffling."""
    checkpoint_steps: int = pydantic.Field(default=200, ge=0)
    """Steps between resumable checkpoints; 0: no checkpoints."""
    validation_requests: int = pydantic.Field(default=64, ge=1)
    """Eval requests whose scores the ServingValidator must reproduce."""
    workers: int = pydantic.Field(default=1, ge=1)
    """Processes of this machine that train together. In a cluster,
    ``TF_CONFIG`` has the workers instead."""
    shards: int = pydantic.Field(default=0, ge=0)
    """Parts of the training files, each read by one worker, a multiple of the
    workers; 0: one for each worker. With the same shards, any number of
    workers trains on the same batches."""
    divided_rows: int = pydantic.Field(default=0, ge=0)
    """Rows from which a table is divided among several workers: embeddings
    with their moments, and vectors of items; 0: every worker holds all tables
    whole."""


class UserCacheConfig(settings_file.Section):
    """Histories that the served model keeps on its device."""

    users: int = pydantic.Field(default=64, ge=0, le=1 << 24)
    """Users that the cache can hold, a multiple of ``ways``; 0: no cache."""
    ways: int = pydantic.Field(default=4, ge=1, le=64)
    """Slots in which a user can be stored; the least recently used one is
    replaced."""
    max_length: int = pydantic.Field(default=100_000, ge=1, le=1 << 24)
    """Newest behaviors kept of each user; 8 bytes each."""
    expire_seconds: int = pydantic.Field(default=0, ge=0, le=1 << 31)
    """Age from which a user counts as not cached; 0: never."""

    @pydantic.model_validator(mode="after")
    def _check_ways(self) -> UserCacheConfig:
        if self.users % self.ways:
            raise ValueError(
                "`users` must be a multiple of `ways`. Received: "
                f"users={self.users}, ways={self.ways}"
            )
        return self


class ExportConfig(settings_file.Section):
    """The export of the model for serving."""

    target: Literal["any", "cpu"] = "any"
    """``cpu``: runs only on x86-64 processors with 8-bit dot products, where
    it is faster."""
    gpus: int = pydantic.Field(default=1, ge=1)
    """GPUs of a model server over which the rows of the item table and of
    embeddings of items are spread."""
    fresh_items: int = pydantic.Field(default=4096, ge=0, le=1 << 20)
    """Items that can be added or replaced while a version is served; 0:
    none."""
    user_cache: UserCacheConfig = pydantic.Field(
        default_factory=UserCacheConfig
    )


class EvaluatorConfig(settings_file.Section):
    """Evaluation and blessing of a model."""

    min_gauc: float = pydantic.Field(default=0.5, ge=0, le=1)
    """GAUC below which a model is not blessed."""
    max_gauc_drop: float = pydantic.Field(default=0.005, ge=0, le=1)
    """Largest drop of GAUC against the last blessed model of the same type."""
    bootstrap_samples: int = pydantic.Field(default=1000, ge=1)
    """Bootstrap samples of users for the confidence intervals."""
    min_gauc_of: dict[str, Annotated[float, pydantic.Field(ge=0, le=1)]] = {}
    """GAUC of labels after the first one below which a model is not blessed,
    such as ``{order: 0.6}``."""
    slices: tuple[str, ...] = ("history_length", "item_popularity")
    """Groups for which metrics are computed: these two, and declared features
    by group and name: ``user_f``, ``item_f``, ``context_f``,
    ``candidate_f``."""


class ServingValidatorConfig(settings_file.Section):
    """Checks of the exported model in a server."""

    tolerance: float = pydantic.Field(default=1e-4, gt=0)
    """Largest allowed difference of a score."""
    timeout_s: float = pydantic.Field(default=300, gt=0)
    """Seconds for the server to load the model, and to answer a call."""
    max_p99_ms: float | None = pydantic.Field(default=None, gt=0)
    """Largest allowed 99th percentile of the duration of ``rank`` in
    milliseconds, with one request per call; null: any."""


class PusherConfig(settings_file.Section):
    """The target of blessed models."""

    directory: str = ""
    """Folder of the served models, with a base directory for each model type.
    Default: ``<output>/serving``."""
    storage: str = ""
    """URL of object storage (``s3://bucket/models``) to which pushed versions
    are also copied, each model below its type or ``matching``; empty: none."""

    def custom_config(self, model: str) -> dict[str, str]:
        """Returns what a pusher is told about the storage of a model."""
        if not self.storage:
            return {}
        return {"storage": f"{self.storage.rstrip('/')}/{model}"}


class MatchingConfig(settings_file.Section):
    """The retrieval model, which finds candidates."""

    enabled: bool = True
    """Also make and push the retrieval model."""
    num_candidates: int = pydantic.Field(default=500, ge=1)
    """Items in an answer."""
    max_behaviors: int = pydantic.Field(default=1000, ge=1)
    """Newest behaviors of a user that are used."""
    half_life: float | None = pydantic.Field(default=None, gt=0)
    """Number of newer behaviors that halves a behavior's weight in the user's
    vector; null (also for the next two keys): the value with the best recall
    on train requests."""
    popularity_weight: float | None = pydantic.Field(default=None, gt=0)
    """Weight of an item's clicks in the train split."""
    repeat_weight: float | None = pydantic.Field(default=None, ge=0)
    """Weight of an item's occurrences among the behaviors."""
    tune_users: int = pydantic.Field(default=300, ge=1)
    """Train users on which these values are chosen."""
    eval_users: int = pydantic.Field(default=5000, ge=1)
    """Largest number of held-out users on which recall is measured."""
    min_recall: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Recall of a whole answer below which the model is not pushed."""
    exact_items: int = pydantic.Field(default=200_000, ge=0)
    """Largest number of items of which all are compared with a user; above it
    only those of the nearest clusters are."""
    index_recall: float = pydantic.Field(default=0.95, gt=0, le=1)
    """Share of the exact answer that an index of clusters must find; it
    decides how many clusters are searched."""
    directory: str = ""
    """Base directory of the served model; default: ``matching`` beside the
    rankers."""


def _form(pattern: str, said: str) -> pydantic.AfterValidator:
    """Returns a check whose error does not repeat what may be a secret."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"expected {said}. Received: another form")
        return value

    return pydantic.AfterValidator(check)


SecretReference = Annotated[
    str,
    _form(
        r"[^/\s]+/[^/\s]+|projects/\S+",
        "SECRET/KEY or projects/P/secrets/S/versions/V, never the secret",
    ),
]
MetadataServer = Annotated[
    str,
    _form(
        r"(mysql://[^@/\s:]+@[^@/\s]+/[^@/\s]+)?",
        "mysql://USER@HOST:PORT/DATABASE, without a password",
    ),
]


class StepConfig(settings_file.Section):
    """What the step of one component gets from the orchestrator."""

    image: str = ""
    """Container image; default: ``orchestration.image``."""
    cpu: float = pydantic.Field(default=0, ge=0)
    """Processors; 0: the orchestrator's default."""
    memory_gb: float = pydantic.Field(default=0, ge=0)
    """Gigabytes of memory; 0: the orchestrator's default."""
    accelerator: str = ""
    """Kind of accelerator: a Kubernetes resource such as ``nvidia.com/gpu``,
    on Vertex AI a type such as ``NVIDIA_L4``; empty: none."""
    accelerators: int = pydantic.Field(default=1, ge=1)
    """Number of accelerators, if there is a kind."""
    node_selector: dict[str, str] = {}
    """Labels of the Kubernetes nodes that may run the step."""


class OrchestrationConfig(settings_file.Section):
    """Steps that an orchestrator runs (``muse pipeline compile --runner``)."""

    image: str = ""
    """Container image of the steps, with a tag or a digest; Airflow without an
    image runs commands on its own machine."""
    pipeline_root: str = ""
    """Folder in which Kubeflow Pipelines or Vertex AI keeps its own records,
    such as ``gs://bucket/records``."""
    service_account: str = ""
    """Service account of the steps (Airflow and Vertex AI; Kubeflow Pipelines
    takes it when a run is created)."""
    namespace: str = "default"
    """Kubernetes namespace of the steps (Airflow)."""
    volume_claim: str = ""
    """Persistent volume claim that holds ``output_dir`` and the raw tables."""
    volume_path: str = "/data"
    """Where the steps mount it."""
    secrets: dict[str, SecretReference] = {}
    """Environment variables of the steps by reference: ``SECRET/KEY`` names a
    Kubernetes secret, ``projects/P/secrets/S/versions/V`` on Vertex AI a
    version in Secret Manager."""
    retries: int = pydantic.Field(default=2, ge=0)
    """Attempts after a failed one; each continues where the last one ended."""
    schedule: str = ""
    """When Airflow starts a run, such as ``@daily``; empty: only by hand."""
    resources: StepConfig = StepConfig()
    steps: dict[str, StepConfig] = {}
    """Resources by name of component, instead of ``resources``."""


def check_output_dir(path: str) -> str:
    """Refuses a folder whose path TFX and Beam would read as a pattern.

    TFX appends ``*`` to the folders of artifacts and lists matching files.

    Raises:
        ValueError: the absolute path has a pattern character.
    """
    whole = str(pathlib.Path(path).expanduser().absolute())
    if found := sorted(set(whole) & set("*?[]")):
        raise ValueError(
            f"expected a path without any of * ? [ ], which TFX takes for a "
            f"pattern; choose another folder (or working directory). Received: "
            f"{''.join(found)} in {whole}"
        )
    return path


OutputDir = Annotated[str, pydantic.AfterValidator(check_output_dir)]


class PipelineConfig(settings_file.Section):
    """The whole pipeline."""

    name: str = pydantic.Field(default="muse", pattern=r"^[a-z0-9][a-z0-9_-]*$")
    """Name of the pipeline in ML Metadata and of its log."""
    output_dir: OutputDir
    """Folder for artifacts, metadata, rejected rows, logs and served models."""
    data: DataConfig
    item_embeddings: Literal["learned", "imported", "text_svd"] = "imported"
    """Source of item vectors: learned from searches (SCL), imported from the
    raw table of vectors, or computed from the items' texts."""
    scl: SCLConfig = SCLConfig()
    transform: TransformConfig = TransformConfig()
    model: ModelConfig = ModelConfig()
    trainer: TrainerConfig = TrainerConfig()
    export: ExportConfig = ExportConfig()
    evaluator: EvaluatorConfig = EvaluatorConfig()
    serving_validator: ServingValidatorConfig = ServingValidatorConfig()
    pusher: PusherConfig = PusherConfig()
    matching: MatchingConfig = MatchingConfig()
    beam: BeamConfig = BeamConfig()
    cache: bool = True
    """Reuse the outputs of unchanged components."""
    metadata: MetadataServer = ""
    """Database of ML Metadata, ``mysql://USER@HOST:PORT/DATABASE``, with the
    password in the environment variable ``MUSE_METADATA_PASSWORD``; empty: an
    SQLite file in ``output_dir``, for one machine."""
    orchestration: OrchestrationConfig = OrchestrationConfig()

    def absolute(self) -> PipelineConfig:
        """Returns the configuration for a process in another directory."""
        values = self.model_dump()
        for section, key in (
            (values, "output_dir"),
            (values["data"], "raw_dir"),
            (values["pusher"], "directory"),
            (values["matching"], "directory"),
        ):
            if section[key] and "://" not in section[key]:
                path = pathlib.Path(section[key]).expanduser().absolute()
                section[key] = str(path)
        return PipelineConfig.model_validate(values)

    @property
    def root(self) -> pathlib.Path:
        """The output directory, absolute."""
        return pathlib.Path(self.output_dir).expanduser().absolute()

    @property
    def artifacts_dir(self) -> pathlib.Path:
        """Root of the TFX artifacts."""
        return self.root / "artifacts"

    @property
    def metadata_path(self) -> pathlib.Path:
        """SQLite file of ML Metadata."""
        return self.root / "metadata.sqlite"

    @property
    def rejected_dir(self) -> pathlib.Path:
        """Folder of rejected rows."""
        return self.root / "rejected"

    @property
    def log_path(self) -> pathlib.Path:
        """The complete log of the runs."""
        return self.root / "logs" / f"{self.name}.log"

    @property
    def serving_dir(self) -> pathlib.Path:
        """Folder of the served models."""
        if self.pusher.directory:
            return pathlib.Path(self.pusher.directory).expanduser().absolute()
        return self.root / "serving"

    @property
    def push_dir(self) -> pathlib.Path:
        """Base directory of the served model; each type has its own."""
        return self.serving_dir / self.model.type

    @property
    def matching_dir(self) -> pathlib.Path:
        """Base directory of the served retrieval model."""
        if self.matching.directory:
            return pathlib.Path(self.matching.directory).expanduser().absolute()
        return self.serving_dir / "matching"

    @property
    def models_files(self) -> dict[str, str]:
        """File names of TensorFlow Serving's ``models.config`` by model type.

        They are in the retrieval model's folder; each lists it and one ranker.
        """
        return {
            name: "models.config" if name == "muse" else f"models_{name}.config"
            for name in get_args(ModelType)
        }

    @property
    def models_file(self) -> pathlib.Path:
        """The ``models.config`` of this model type."""
        return self.matching_dir / self.models_files[self.model.type]


def load_config(
    path: str | pathlib.Path, overrides: Sequence[str] = ()
) -> PipelineConfig:
    """Reads a configuration file and applies overrides.

    Raises:
        ConfigError: the file cannot be read or has an unknown key or an
            invalid value; the message names the key, the expected value and
            the received one.
    """
    values = settings_file.read(path)
    return settings_file.parse(PipelineConfig, values, path, KEYS, overrides)
