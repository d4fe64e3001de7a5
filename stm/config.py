"""Every setting of a run, as frozen dataclasses: the command line and YAML are generated from these.

Try: ``stm train --print_config`` shows all of them with their defaults.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from stm.bounds import Bounds, Rule, check, number
from stm.errors import UserError
from stm.plural import counted

Decoder = Literal["auto", "packets", "sequential", "decord"]
Sampling = Literal["segments", "dense", "seconds"]
Crop = Literal["corners5", "corners13", "resized"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


Count = Annotated[int, Bounds(ge=1)]
Positive = Annotated[float, Bounds(gt=0)]
Share = Annotated[float, Bounds(ge=0, le=1)]
NotNegative = Annotated[float, Bounds(ge=0)]
Seed = Annotated[int, Bounds(ge=-(2**63), le=2**63 - 1)]


def _are_shares(scales: list[float]) -> bool:
    return bool(scales) and all(0 < scale <= 1 for scale in scales)


def _are_bounds(pair: list[float]) -> bool:
    return len(pair) == 2 and 0 < pair[0] <= pair[1]


def _are_bounds_of_shares(pair: list[float]) -> bool:
    return _are_bounds(pair) and pair[1] <= 1


def _are_milestones(milestones: list[float]) -> bool:
    epochs = all(value >= 1 and value == int(value) for value in milestones)
    shares = all(0 < value < 1 for value in milestones)
    return milestones == sorted(set(milestones)) and (epochs or shares)


def _are_betas(betas: list[float]) -> bool:
    return len(betas) == 2 and all(0 <= beta < 1 for beta in betas)


def _names_a_directory(name: str) -> bool:
    parts = name not in ("", ".", "..") and not any(sign in name for sign in ("/", "\\", "::"))
    return parts and name.isprintable() and len(name.encode()) <= 200


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network (`stm.model.build_model`)."""

    variant: str = "stm"
    """Network: `stm`, one of those that the paper compares it with (stm/model/variants), or a block of `plugin`."""

    plugin: str | None = None
    """Python file (or importable module) with your own blocks; it is copied to workers and into checkpoints."""

    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of a plugin's block, by the names of its keyword arguments."""

    depth: int = 50
    """ResNet depth: 26 (demos, tests), 50 (the paper), 101 or 152."""

    fusion: str = "sum"
    """How the CSTM and CMM outputs of a block are joined: `sum`, or `concat` (the paper's ablation)."""

    temporal_conv: str = "channelwise"
    """CSTM's temporal convolution: `channelwise`, or `ordinary` (dense, the paper's ablation)."""

    temporal_kernel: int = 3
    """Taps of the temporal convolution, an odd number."""

    reduction: int = 16
    """CMM reduces C channels to C / `reduction`."""

    stages: list[int] = field(default_factory=lambda: [2, 3, 4, 5])
    """ResNet stages whose blocks are replaced, numbered 2 to 5 as in the paper."""

    blocks: list[int] | None = None
    """Blocks of these stages that are replaced, counted from 0 in each stage; null replaces all."""

    dropout: float = 0.5
    """Dropout before the classifier; 0.8 on UCF-101 and HMDB-51."""

    width: int = 64
    """Channels of the stem: 64 in ResNet; 32 gives a network that a laptop can train."""

    gradient_checkpointing: bool = False
    """Recompute block activations in the backward pass: saves memory and takes about a third more time."""

    pretrained: str | None = None
    """Weights to start from: `imagenet` (downloads torchvision's), a run, a checkpoint, a file of ResNet weights, the
    URL of one of these, or `models:/NAME@ALIAS`. Classes with the same name keep their rows of the classifier."""

    def build_arguments(self) -> dict[str, Any]:
        """Return the arguments of ``stm.model.build_model``, which checks them; ``num_classes`` is not among them.

        A plugin's block gets only those settings of stm's own blocks that differ from their defaults.
        """
        values = dataclasses.asdict(self)
        for name in ("pretrained", "plugin"):
            del values[name]
        settings = values.pop("settings")
        if self.plugin is not None:
            for name in ("fusion", "temporal_conv", "temporal_kernel", "reduction"):
                if values[name] == getattr(type(self), name):
                    del values[name]
        for name in sorted(settings.keys() & {*values, "num_classes"}):
            of_its_own = (
                f"set it with --model.{name}"
                if name in values
                else "the classes of the videos set it"
            )
            raise UserError(f"--model.settings: {name} is not a setting of the block: {of_its_own}")
        return values | settings


_GOES_WITH = {
    "data": (
        ("frame_stride", "sampling", "dense"),
        ("window_s", "sampling", "seconds"),
        ("crop_area", "crop", "resized"),
        ("crop_ratio", "crop", "resized"),
        ("randaugment_magnitude", "randaugment", None),
    ),
    "optim": (("effective_beta", "class_weights", "effective"),),
}
"""For each section: a setting, the one it depends on, and the value that this must have (None: any but the default)."""


def _check_effect(section: str, settings: Any) -> None:
    """Raise ``UserError`` for a setting that has no effect because of another one."""
    usual = _defaults(type(settings))
    for name, of, needed in _GOES_WITH[section]:
        value, other = getattr(settings, name), getattr(settings, of)
        if value != usual[name] and (other == usual[of] if needed is None else other != needed):
            raise UserError(
                f"--{section}.{name} {value}: has no effect on --{section}.{of} "
                f"{'null' if other is None else other}; it needs {needed or 'another value'}"
            )


def _defaults(settings: Any) -> dict[str, Any]:
    return {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(settings)
    }


RANKS_PER_STREAM = 8
"""Workers that share a stream if `data.streams` is null: usually those of one node (docs/scaling.md)."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How videos are decoded into clips (`stm.data`)."""

    train: str | None = None
    """Manifest to train on, written by `stm index`."""

    val: str | None = None
    """Manifest to validate on; null trains without validation."""

    root: str | None = None
    """Folder or URL where the manifests' videos are now, if they have moved; every video must be inside it. Null uses
    the folder that they were indexed in, and allows videos outside it."""

    num_segments: Count = 8
    """Number of frames in a clip (T)."""

    sampling: Sampling = "segments"
    """How frames are chosen: `segments` takes one frame from each of T equal parts of the video (the paper), `dense`
    takes T frames at a stride, `seconds` takes T frames from a window of time. A video shorter than the window is
    looped."""

    frame_stride: Count = 8
    """Step between the frames of a `dense` clip, in frames. On Kinetics, T x stride is usually 8 x 8 or 16 x 4."""

    window_s: Positive = 2.0
    """Length of the window of a `seconds` clip, in seconds."""

    folder_fps: Positive = 12.0
    """Frame rate that `seconds` assumes for frame folders, and for videos that state none."""

    size: Annotated[int, Bounds(ge=32, unit="px")] = 224
    """Side of a training clip and of the `efficient` test crop, px."""

    crop: Crop = "corners5"
    """Position of the training crop: `corners5` uses a corner or the centre (the paper), `corners13` also the middle of
    a side or a point halfway to a corner (TSN), and `resized` a random box within `crop_area` and `crop_ratio`."""

    scales: Annotated[
        list[float], Rule(_are_shares, "each scale is a share of the short side, in (0, 1]")
    ] = field(default_factory=lambda: [1.0, 0.875, 0.75, 0.66])
    """Sides of a `corners5` or `corners13` crop, as shares of the short side; one is drawn for each clip."""

    crop_area: Annotated[
        list[float],
        Rule(_are_bounds_of_shares, "must be two rising shares of the picture, in (0, 1]"),
    ] = field(default_factory=lambda: [0.08, 1.0])
    """Smallest and largest area of a `resized` crop, as shares of the picture."""

    crop_ratio: Annotated[list[float], Rule(_are_bounds, "must be two rising numbers above 0")] = (
        field(default_factory=lambda: [0.75, 1.3333])
    )
    """Smallest and largest aspect ratio (width over height) of a `resized` crop."""

    flip: Literal["auto", "swap", "never"] = "auto"
    """Mirror half of the training clips: `auto` does so unless a class name contains left or right; `swap` also mirrors
    classes that turn into each other, and swaps their labels; `never` mirrors none."""

    reverse: Literal["never", "auto", "swap"] = "never"
    """Play half of the training clips backwards: `auto` does so unless two class names are reversals of each other;
    `swap` then reverses only the clips of those classes, and swaps their labels; `never` reverses none."""

    color_jitter: Share = 0.0
    """Multiply brightness, contrast and saturation of a training clip by random factors, from 1 minus this value to 1
    plus this value; 0 is off."""

    hue: Annotated[float, Bounds(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue of a training clip, as a share of the colour circle, in either direction; 0 is off."""

    grey: Share = 0.0
    """Share of training clips that become grey."""

    blur: Share = 0.0
    """Share of training clips that are blurred with a Gaussian of 0.1 to 2 px."""

    randaugment: Annotated[int, Bounds(ge=0)] = 0
    """Number of RandAugment operations on each training clip, the same for all its frames; 0 is off, 2 is usual."""

    randaugment_magnitude: Annotated[float, Bounds(ge=0, le=10)] = 9.0
    """Strength of the operations of RandAugment, from 0 to 10."""

    erasing: Share = 0.0
    """Share of training clips in which noise replaces a box, the same box in all frames."""

    temporal_jitter: NotNegative = 0.0
    """Vary the speed of training clips: with a value j, the window is 1 / (1 + j) to 1 + j times as long, or the
    segments cover a share of the video from 1 / (1 + j) to 1; 0 is off."""

    balance: Share = 0.0
    """Show rare classes more often: 0 shows every video once in an epoch, 1 shows all classes equally often, 0.5 shows
    them in proportion to the square roots of their sizes. The length of an epoch does not change."""

    decoder: Decoder = "auto"
    """Decoder; `auto` chooses the fastest exact one for each file."""

    max_bad_fraction: Share = 0.01
    """Share of an epoch's videos that may fail to decode; above it, the run stops and names them."""

    clips_per_task: Count = 64
    """Clips that one Ray Data task decodes. Small tasks waste time on starting; large tasks delay the first batch."""

    cpus_per_task: Positive = 1.0
    """CPUs that each decoding task reserves."""

    max_cpus: Annotated[float | None, Bounds(gt=0)] = None
    """Total CPUs for decoding, for jobs that share a cluster; null uses all CPUs that training leaves free."""

    decode_deadline_s: Positive = 60.0
    """Seconds that decoding a clip may take; after that, the video is logged and quarantined."""

    max_pixels: Annotated[int, Bounds(gt=0)] = 2**26
    """Largest number of pixels in a frame; a video with larger frames counts as unreadable. The default is twice an 8K
    frame."""

    decode_mib: Annotated[int, Bounds(gt=0)] = 4096
    """Memory that decoding a clip may add to its process, MiB; a video that needs more counts as unreadable."""

    streams: Annotated[int | None, Bounds(ge=1)] = None
    """Number of streams that feed the training workers, each with its own executor; null is one for every 8 workers.
    The number does not change the clips or their order."""

    prefetch_batches: Annotated[int, Bounds(ge=0)] = 2
    """Batches that each training worker keeps ready, rounded up to whole blocks; small batches share a block."""

    wait_deadline_s: Positive = 1800.0
    """Seconds that a rank waits for clips before it fails. The workers are then restarted, at most `train.max_failures`
    times."""

    def __post_init__(self) -> None:
        check("data", self)
        _check_effect("data", self)
        if self.max_cpus is not None and self.max_cpus < self.cpus_per_task:
            raise UserError(
                f"--data.max_cpus {self.max_cpus}: must leave room for one task of "
                f"--data.cpus_per_task {number(self.cpus_per_task)}, or null"
            )

    def resampled(
        self,
        num_segments: int | None = None,
        sampling: Sampling | None = None,
        frame_stride: int | None = None,
        window_s: float | None = None,
    ) -> DataConfig:
        """Return a copy with other frames in a clip; None keeps the present value if it is valid with ``sampling``."""
        given: dict[str, Any] = {
            "num_segments": num_segments,
            "sampling": sampling,
            "frame_stride": frame_stride,
            "window_s": window_s,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        if sampling not in (None, self.sampling):
            kind = type(self)
            changes = {"frame_stride": kind.frame_stride, "window_s": kind.window_s} | changes
        return dataclasses.replace(self, **changes)

    @property
    def frames(self) -> str:
        """Which frames make a clip, in words."""
        return {
            "segments": f"{counted(self.num_segments, 'frame')}, one from each of as many equal parts of the video",
            "dense": f"{counted(self.num_segments, 'frame')}, {self.frame_stride} apart",
            "seconds": f"{counted(self.num_segments, 'frame')} from {self.window_s:g} s",
        }[self.sampling]


@dataclass(frozen=True, kw_only=True)
class ParameterGroup:
    """Parameters that are trained with their own settings; a parameter belongs to the first group that matches it."""

    match: str
    """Regular expression that is searched in a parameter's name, such as `^fc\\.` or `bias$`."""

    lr_scale: NotNegative = 1.0
    """Factor of the learning rate; 0 freezes the parameters, and also the statistics of a normalisation whose
    parameters are all frozen."""

    weight_decay: Annotated[float | None, Bounds(ge=0)] = None
    """Weight decay; null is `optim.weight_decay`."""

    def __post_init__(self) -> None:
        check("optim.groups", self)
        try:
            re.compile(self.match)
        except re.error as error:
            raise UserError(
                f"--optim.groups: {self.match!r} is not a regular expression: {error}"
            ) from None


_WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    "sgd": {"betas": [0.9, 0.999], "eps": 1e-8},
    "adamw": {"momentum": 0.9},
    "step": {},
    "cosine": {"milestones": None, "gamma": None},
    "linear": {"milestones": None, "gamma": None},
}
"""Settings that each optimizer and each schedule ignores. An optimizer's have defaults, and other values are an error;
a schedule's are no error, because recipes set them."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer, schedule and trained parameters (`stm.train.optim`); the defaults are the paper's, section 4.1."""

    batch_size: Count = 64
    """Global batch: number of clips in a step on all workers together."""

    name: Literal["sgd", "adamw"] = "sgd"
    """Optimizer: `sgd` with momentum, or `adamw`, which needs a smaller learning rate (about 0.0005) and a larger
    weight decay (0.05)."""

    lr: Positive = 0.01
    """Peak learning rate, at `reference_batch_size`. The paper's 0.01 is for ImageNet weights and 64 clips; with random
    weights and small batches, a network learns nothing for several epochs at this rate (for 8 clips, use 0.0025 to
    0.005)."""

    reference_batch_size: Annotated[int | None, Bounds(ge=1)] = None
    """Multiply `lr` by batch_size / `reference_batch_size`; null leaves `lr` unchanged."""

    momentum: Annotated[float, Bounds(ge=0, lt=1)] = 0.9
    """Momentum of `sgd`."""

    betas: Annotated[list[float], Rule(_are_betas, "must be two numbers in [0, 1)")] = field(
        default_factory=lambda: [0.9, 0.999]
    )
    """Decay rates of the two moments of `adamw`."""

    eps: Positive = 1e-8
    """Small number that `adamw` adds to its denominator."""

    weight_decay: NotNegative = 5e-4
    """Weight decay: an L2 penalty for `sgd`, decoupled from the gradient for `adamw`."""

    epochs: Count = 50
    """Passes over the training manifest."""

    schedule: Literal["step", "cosine", "linear"] = "step"
    """How the learning rate falls after the warm-up: `step` multiplies it by `gamma` at each milestone, `cosine` and
    `linear` lower it from `lr` to `min_lr` at the end of the last epoch."""

    milestones: Annotated[
        list[float],
        Rule(
            _are_milestones,
            "must rise, and be either all epoch numbers, from 1, or all shares of the training, between 0 and 1",
        ),
    ] = field(default_factory=lambda: [30, 40, 45])
    """When `step` multiplies the rate by `gamma`: after these epochs, or after these shares of all epochs, such as
    [0.6, 0.8, 0.9]."""

    gamma: Annotated[float, Bounds(gt=0, le=1)] = 0.1
    """Factor at each milestone."""

    min_lr: NotNegative = 0.0
    """Lowest learning rate of the schedule, at `reference_batch_size`."""

    warmup_epochs: NotNegative = 0.0
    """Length of a linear warm-up from 0, in epochs, with any schedule."""

    clip_grad_norm: NotNegative = 20.0
    """Largest gradient norm; 0 switches clipping off."""

    label_smoothing: Annotated[float, Bounds(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all classes."""

    class_weights: str | None = None
    """Weight of each class in the loss, scaled to a mean of 1 over the samples: `inverse` (1 / its number of videos),
    `effective` (by `effective_beta`), or a file of class names and weights (CSV or JSON)."""

    effective_beta: Annotated[float, Bounds(ge=0, lt=1)] = 0.999
    """Beta of `class_weights effective`: a class of n videos has the weight (1 - beta) / (1 - beta^n)."""

    logit_adjustment: NotNegative = 0.0
    """Factor by which the log of each class's share of the videos is added to its logit in training, so that
    predictions favour no class; 1 is usual, 0 is off."""

    accumulate: Count = 1
    """Number of parts of each worker's share of a batch; gradients are accumulated over them before the optimizer
    step."""

    groups: list[ParameterGroup] = field(default_factory=list)
    """Parameters with their own learning rate or weight decay; all others form the last group."""

    preset: Literal["no_decay_norm_bias", "tsn"] | None = None
    """A common choice for all parameters, in addition to `groups`: `no_decay_norm_bias` does not decay biases and
    normalisation; `tsn` also trains biases at twice the rate, as the TSN family does."""

    layerwise_decay: Annotated[float, Bounds(gt=0, le=1)] = 1.0
    """Multiply the learning rate by this factor, such as 0.75, once in the last residual block, twice in the one
    below, and so on to the stem; the classifier has the full rate."""

    freeze: list[str] = field(default_factory=list)
    """Parts that are not trained and keep their statistics: `stem`, `layer1` to `layer4`, or a module's name."""

    partial_bn: bool = False
    """Freeze every batch normalisation of ResNet except the first, as TSN does; those that a block adds are trained."""

    sync_batchnorm: bool = False
    """Compute batch statistics over the global batch instead of each worker's share."""

    ema_decay: Annotated[float, Bounds(ge=0, lt=1)] = 0.0
    """Decay of a moving average of the weights, which validation and checkpoints then use; 0 is off."""

    mixup: NotNegative = 0.0
    """Alpha of mixup (blends pairs of clips and their labels); 0 is off."""

    cutmix: NotNegative = 0.0
    """Alpha of cutmix (pastes a box of one clip into another); 0 is off. With mixup, each step draws one of them."""

    def __post_init__(self) -> None:
        check("optim", self)
        _check_effect("optim", self)
        if all(value >= 1 for value in self.milestones):  # records contain [30], not [30.0]
            object.__setattr__(self, "milestones", [int(value) for value in self.milestones])
        if self.min_lr > self.lr:
            raise UserError(
                f"--optim.min_lr {number(self.min_lr)}: must not be above --optim.lr {number(self.lr)}"
            )
        for name, default in _WITHOUT_EFFECT[self.name].items():
            if (value := getattr(self, name)) != default:
                raise UserError(
                    f"--optim.{name} {value}: has no effect on --optim.name {self.name}; leave it out"
                )

    @property
    def effective_lr(self) -> float:
        """The peak learning rate after scaling with the global batch."""
        return self.lr * self.batch_size / (self.reference_batch_size or self.batch_size)

    @property
    def effective_min_lr(self) -> float:
        """`min_lr`, scaled like the peak."""
        return self.effective_lr * (self.min_lr / self.lr)

    @property
    def milestone_epochs(self) -> list[float]:
        """When `step` decays the rate, in epochs from the start, which may be fractions."""
        return [value if value >= 1 else round(value * self.epochs, 9) for value in self.milestones]

    @property
    def without_effect(self) -> set[str]:
        """Names of the settings that this optimizer and schedule ignore."""
        return {*_WITHOUT_EFFECT[self.name], *_WITHOUT_EFFECT[self.schedule]}

    @property
    def described(self) -> str:
        """Optimizer, schedule and frozen parameters, as one line of text."""
        own = f"momentum {self.momentum:g}"
        if self.name == "adamw":
            own = f"betas {self.betas[0]:g} and {self.betas[1]:g}"
        fall = f"{self.schedule} to {self.effective_min_lr:g}"
        if self.schedule == "step":
            after = ", ".join(f"{epoch:g}" for epoch in self.milestone_epochs)
            fall = f"x {self.gamma:g} after epoch {after}" if after else "constant"
        frozen = [*self.freeze, *(g.match for g in self.groups if g.lr_scale == 0)]
        frozen += ["batch normalisation except the first"] * self.partial_bn
        return (
            f"{self.name} ({own}, weight decay {self.weight_decay:g}), rate {fall}"
            + (
                f", warm-up {counted(self.warmup_epochs, 'epoch', 'g')}"
                if self.warmup_epochs
                else ""
            )
            + (f", {self.preset}" if self.preset else "")
            + (f", layerwise {self.layerwise_decay:g}" if self.layerwise_decay != 1 else "")
            + (f"; frozen: {', '.join(frozen)}" if frozen else "")
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Where and how a run executes (`stm.train`)."""

    name: Annotated[
        str | None,
        Rule(
            _names_a_directory,
            "must be a directory name: no slashes, no ::, only printable characters, 1 to 200 bytes",
        ),
    ] = None
    """Name of the run; the same name continues the run. Null makes a new name from the variant and the time."""

    storage: str = "runs"
    """Directory or URL for runs and their checkpoints; every node must reach it."""

    num_workers: Count = 1
    """Number of Ray Train workers (DDP ranks), or the largest number with `min_workers`."""

    min_workers: Annotated[int | None, Bounds(ge=1)] = None
    """Smallest number of workers to train on while nodes are missing; more join as nodes come. Null waits for all."""

    use_gpu: bool | None = None
    """Give each worker a GPU; null does so if the cluster has enough GPUs."""

    cpus_per_worker: Positive = 1.0
    """CPUs that each training worker reserves; decoding uses the others."""

    resources_per_worker: Annotated[
        dict[str, float],
        Rule(lambda each: min(each.values(), default=0) >= 0, "must not have a negative number"),
    ] = field(default_factory=dict)
    """Other Ray resources that each worker reserves, such as `{trainer: 1}` for nodes that offer this resource."""

    threads_per_worker: Annotated[int | None, Bounds(ge=1)] = None
    """PyTorch threads of each worker; null divides a node's cores among its workers (1 with a GPU)."""

    precision: Precision = "auto"
    """Data type of the forward pass: `auto` is bfloat16 on GPUs that support it, and float32 elsewhere."""

    exchange: Literal["float32", "bfloat16"] = "float32"
    """Type in which ranks exchange gradients; `bfloat16` halves the bytes and rounds the gradients."""

    compile: bool = False
    """Compile the network's blocks with `torch.compile`: the first steps are slow, the later ones faster."""

    seed: Seed = 0
    """Seed of every random draw: weights, order, frames, crops, dropout."""

    log_every_steps: Count = 10
    """Steps between lines of progress; the first step also has a line, and slow steps have one about every 15 s."""

    checkpoint_every_steps: Annotated[int | None, Bounds(ge=1)] = None
    """Steps between checkpoints within an epoch; null uses only `checkpoint_every_minutes`."""

    checkpoint_every_minutes: Annotated[float | None, Bounds(gt=0)] = 10.0
    """Minutes between checkpoints within an epoch; null writes one only at the end of each epoch."""

    val_every_epochs: Count = 1
    """Epochs between validations."""

    validation: Literal["auto", "inline", "async"] = "auto"
    """Where to validate: `inline` on the training workers, between epochs; `async` on separate resources, from
    checkpoints, while training continues; `auto` is `async` if the cluster has a spare GPU, else `inline`."""

    max_failures: Annotated[int, Bounds(ge=-1)] = 3
    """Number of restarts after lost workers before the run gives up; -1 never gives up."""

    collective_timeout_s: Positive = 300.0
    """Seconds that a rank waits for the others; after that the step fails, and the missing rank is named."""

    store_patience_s: NotNegative = 300.0
    """Seconds to wait during a run for a `storage` URL that does not answer. After that, a checkpoint is skipped; the
    run ends if it must read a checkpoint, or if it cannot save the last one. 0 does not wait."""

    wait_for_nodes_s: NotNegative = 0.0
    """Seconds to wait if the job needs more nodes than the cluster has now; the job also requests them from an
    autoscaler. With 0, the job is refused at once. With a value above 0, set `use_gpu` to true if the new nodes have
    GPUs, and to false if they do not."""

    def __post_init__(self) -> None:
        check("train", self)
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise UserError(
                f"--train.min_workers {self.min_workers}: must not be above --train.num_workers {self.num_workers}"
            )


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """The MLflow record of a run (`stm.tracking`)."""

    uri: str | None = None
    """Tracking server or database; null uses $MLFLOW_TRACKING_URI, or else `sqlite` beside the runs. `none` switches
    the record off."""

    experiment: str = "stm"
    """MLflow experiment; $MLFLOW_EXPERIMENT_ID and $MLFLOW_EXPERIMENT_NAME replace the default."""

    log_model: bool = True
    """At the end, log the best checkpoint as a model that `mlflow.pyfunc` loads; false logs it as files, as in a
    sweep."""

    def __post_init__(self) -> None:
        check("tracking", self)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        batch_size, num_workers = self.optim.batch_size, self.train.num_workers
        if batch_size % num_workers:
            raise UserError(
                f"--optim.batch_size {batch_size} cannot be divided among --train.num_workers {num_workers}: "
                f"each worker needs the same number of clips, so use a multiple of {num_workers}, "
                f"such as {max(num_workers, batch_size // num_workers * num_workers)}"
            )
        if self.optim.accumulate > batch_size // num_workers:
            raise UserError(
                f"--optim.accumulate {self.optim.accumulate}: a worker's share of a batch is "
                f"{counted(batch_size // num_workers, 'clip')}, and cannot be split into more parts than that"
            )
        if self.train.compile and self.model.gradient_checkpointing:
            raise UserError(
                "--train.compile true and --model.gradient_checkpointing true cannot be combined: in the second pass "
                "PyTorch may use a different graph for a block than in the first. Leave one of them out"
            )

    @property
    def rare_classes(self) -> str:
        """The settings for rare classes, such as "balance 1, class weights inverse"; "" if none is set."""
        done = {
            "balance": self.data.balance or None,
            "class weights": self.optim.class_weights,
            "logit adjustment": self.optim.logit_adjustment or None,
        }
        return ", ".join(f"{name} {value}" for name, value in done.items() if value is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain nested dict, as in YAML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """Invert `to_dict`. Raises ``UserError`` for a setting that this version of stm does not have."""
        sections: dict[str, Any] = {}
        for section in dataclasses.fields(cls):
            section_class: Any = section.default_factory
            given = values.get(section.name, {})
            known = {f.name for f in dataclasses.fields(section_class)}
            unknown = sorted(set(given) - known)
            if unknown:
                raise UserError(
                    f"unknown setting {section.name}.{unknown[0]}: this version of stm does not have it"
                )
            if section.name == "optim" and "groups" in given:
                given = {**given, "groups": [ParameterGroup(**group) for group in given["groups"]]}
            sections[section.name] = section_class(**given)
        return cls(**sections)
