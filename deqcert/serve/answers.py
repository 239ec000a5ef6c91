"""What requests may say and what answers hold: the words of the service's OpenAPI."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_STRICT = ConfigDict(extra="forbid")

_RESIZE = Field(
    False,
    description="Make a picture of another size or kind fit: its middle is cut out, scaled, and "
    "turned grey where the model takes grey. The answer is about the picture so made.",
)


class PredictQuery(BaseModel):
    """Parameters of predict."""

    model_config = _STRICT
    resize: bool = _RESIZE


class CertifyQuery(BaseModel):
    """Parameters of certify."""

    model_config = _STRICT
    n: int | None = Field(None, ge=1, le=2**31 - 1, description="Most noisy copies.")
    alpha: float | None = Field(
        None, gt=0, lt=1, description="Probability that the certificate may be wrong."
    )
    goal: str | None = Field(
        None,
        max_length=200,
        description="When it is enough: radii=R,R,... (each is certified or out of reach), "
        "relative=SHARE, or budget (all n copies).",
    )
    deadline: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds from the request's arrival after which the radius reached so far is "
        "answered. The bound then holds at every number of copies at once.",
    )
    resize: bool = _RESIZE


class SetQuery(BaseModel):
    """Parameters of set."""

    model_config = _STRICT
    alpha: float | None = Field(
        None, gt=0, lt=1, description="How often a set may miss the true class."
    )
    radius: float | None = Field(
        None, ge=0, le=1e6, description="l2 size of perturbations that the promise holds for."
    )
    resize: bool = _RESIZE


class FeedbackQuery(BaseModel):
    """Parameters of feedback."""

    model_config = _STRICT
    id: str = Field(max_length=64, description="Name of the answer.")
    class_: int = Field(alias="class", ge=0, le=2**31 - 1, description="Its true class.")


class FeedbackAnswer(BaseModel):
    """Answer of feedback."""

    id: str = Field(description="Name of the answer.")
    class_: int = Field(alias="class", description="Its true class, as it is on record now.")


class Clean(BaseModel):
    """The model's own answer to the image as it is; nothing is promised of it."""

    class_: int | None = Field(alias="class", description="None where the solve did not converge.")
    name: str | None
    confidence: float = Field(description="Largest softmax probability.")
    evaluations: int = Field(description="Evaluations of the cell.")


class PredictAnswer(Clean):
    """Answer of predict."""

    id: str = Field(description="Name of the record.")
    changed: str | None = Field(None, description="What was done to the picture to make it fit.")
    seconds: float


class CertifyAnswer(BaseModel):
    """Answer of certify."""

    id: str = Field(description="Name of the record.")
    class_: int | None = Field(alias="class", description="None: the certificate abstains.")
    name: str | None
    radius: float = Field(
        description="l2 radius in pixels of [0, 1] within which the smoothed classifier answers "
        "the class, with probability 1 - alpha; 0 where it abstains."
    )
    alpha: float
    p_lower: float = Field(description="Lower bound of the class's probability under the noise.")
    n: int = Field(description="Noisy copies that bound it.")
    bound: str = Field(
        description='"time-uniform" with a goal or a deadline: it holds at every n at once. '
        '"fixed n": Clopper-Pearson at the n that was fixed before.'
    )
    ended: str = Field(description='What ended it: "goal", "deadline" or "samples".')
    goal: str
    reached: dict[str, bool] = Field(description="Whether each radius of the goal is certified.")
    sigma: float
    classifier: str
    assumptions: str
    evaluations: float
    votes: list[int] = Field(description="Votes per class among the n copies.")
    clean: Clean
    changed: str | None = None
    seconds: float


class SetAnswer(BaseModel):
    """Answer of set."""

    id: str = Field(description="Name of the record.")
    classes: list[int]
    names: list[str]
    alpha: float
    radius: float
    guarantee: str
    changed: str | None = None
    seconds: float


class Problem(BaseModel):
    """Why a request is not served."""

    error: str = Field(description="One sentence that says what would work.")


class RecordAnswer(BaseModel):
    """A record, as who asked for the answer may see it."""

    id: str
    number: int
    time: float = Field(description="Seconds since 1970.")
    mode: str
    image_sha256: str
    pixels: list[Any] = Field(description="What the model saw, channels by rows by columns.")
    seed: str | None = Field(description="Seed of the noise in hexadecimal.")
    asked: dict[str, Any]
    answer: dict[str, Any]
    votes: dict[str, list[int]] = Field(description="By stage of the noise, votes per class.")
    about: dict[str, Any] = Field(description="Model, hashes, settings and versions.")
    digest: str = Field(description="SHA-256 over this record and the digest before it.")
    replay: str = Field(description="Command that computes the very votes again.")
