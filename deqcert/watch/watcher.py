"""The watch itself: answers in, alarms out; it goes on where it stopped."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deqcert.errors import ConfigError, RunError
from deqcert.files import Closing, Lock, explain
from deqcert.registry import unknown_name
from deqcert.runs import versions
from deqcert.smoothing.seed import draw_seed
from deqcert.watch.alarms import RATES
from deqcert.watch.betting import HIGHEST, Evidence, delay
from deqcert.watch.incidents import entry, write_incident
from deqcert.watch.observations import Observation, Source
from deqcert.watch.pool import Pool
from deqcert.watch.promise import Promise
from deqcert.watch.reference import RECORD, Reference
from deqcert.watch.state import State, Trace
from deqcert.watch.tolerance import RARE, least_rows, tolerated_rank, tolerated_rate

if TYPE_CHECKING:
    from deqcert.watch.clean import CleanLook

CHUNK = 256
"""Answers between two writings of the state."""


class Watch(Closing):
    """Watches a source against a reference; a context manager that holds its folder.

    Args:
        reference: What is normal.
        source: The answers.
        folder: Where the state and the incidents are kept; made if it is not there.
        promise: Delta and the drift budget.
        alarms: Which alarms; all that the reference can carry if not given.
        look: How inputs are looked at without noise, where an alarm rests on that; if not given,
            with the model that the source names.

    Raises:
        ConfigError: If the reference is of something else, too small, or cannot carry an alarm.
        RunError: If the folder holds the state of another watch, or another process has it.

    **Guarantee:** if the rows of the reference and the answers are independent draws of one law Q,
    then the probability that any alarm is ever raised for the first time is at most delta, over
    the reference and the stream together. With a drift budget the same holds where every answer,
    given all that came before it, has any law P with KL(P || Q) <= the budget. Each of A alarms
    gets delta / A: half for what the reference does not tell, half for the bets.

    **Source:** :mod:`deqcert.watch.betting`, :mod:`deqcert.watch.tolerance`; a union bound.
    """

    def __init__(
        self,
        reference: Reference,
        source: Source,
        folder: str | Path,
        promise: Promise | None = None,
        *,
        alarms: Sequence[str] | None = None,
        look: CleanLook | None = None,
    ) -> None:
        asked = Promise() if promise is None else promise
        self.reference, self.source, self.folder, self.look = reference, source, Path(folder), look
        for parameters in source.parameters:
            reference.check_about(parameters)
        self.alarms = tuple(dict.fromkeys(reference.alarms if alarms is None else alarms))
        for name in self.alarms:
            if name not in reference.alarms:
                raise ConfigError(unknown_name("alarm in this reference", name, reference.alarms))
        if not self.alarms:
            raise ConfigError("there is no alarm to watch; name at least one.")
        self.delta = asked.delta
        self.share = asked.delta / (2 * len(self.alarms))
        """Probability that each alarm's tolerance, and each alarm's evidence, may be wrong."""
        traces = {
            name: Trace(Evidence(self._tolerated(name, asked.drift_budget))) for name in self.alarms
        }
        about = {
            "reference": reference.sha256,
            "delta": asked.delta,
            "drift_budget": asked.drift_budget,
            "alarms": list(self.alarms),
        }
        self.new: list[Path] = []
        """Incidents of this time."""
        made = _make(self.folder)
        self._budget = asked.drift_budget
        self._lock = Lock(
            self.folder,
            f"another process is watching with {self.folder}; wait for it or give another --state",
            made,
        )
        try:
            self.state = self._open(about, traces)
            self._pools = {} if self._budget else self._open_pools()
        except BaseException:
            self._lock.close()
            raise

    @property
    def name(self) -> str:
        """A name of this watch and of no other, the same each time that it goes on."""
        return hashlib.sha256(str(self.state.seed).encode()).hexdigest()[:16]

    @property
    def skipped(self) -> int:
        """Answers of the source that were read and are not like the reference's."""
        return self.source.skipped

    @property
    def standing(self) -> bool:
        """Whether any alarm is raised now."""
        return any(trace.standing for trace in self.state.traces.values())

    def go_on(self, told: Callable[[int], None] | None = None) -> None:
        """Read what came since, each answer once, and raise alarms.

        Args:
            told: Called with the number of answers read so far, now and then.

        Raises:
            DeqcertError: If the source cannot be read; what was read before is remembered.
        """
        source, state = self.source, self.state
        source.position = state.position
        stream = itertools.chain(
            ((seen, False) for seen in source.observations()),
            ((seen, True) for seen in source.labelled()),
        )
        while chunk := list(itertools.islice(stream, CHUNK)):
            for seen, late in self._looked(chunk):
                state.answers += not late
                for name, trace in state.traces.items():
                    of_label = name in RATES and RATES.get(name).needs == "label"
                    if of_label or not late:
                        self._take(name, trace, seen)
            state.position = source.position
            for pool in self._pools.values():
                pool.write()
            state.write(self.folder)
            if told is not None:
                told(state.answers)

    def rows(self) -> list[dict[str, Any]]:
        """Return one dictionary per alarm, as JSON values."""
        found = []
        for name, trace in self.state.traces.items():
            bets = trace.evidence
            b = float(bets.tolerated)
            shift = min(2.0 * b, (1.0 + b) / 2.0)
            found.append(
                {
                    "alarm": name,
                    "answers": bets.count,
                    "mean": trace.total / bets.count if bets.count else None,
                    "tolerated": b,
                    "evidence": float(bets.value),
                    "highest": trace.highest,
                    "threshold": 1.0 / self.share,
                    "raised": trace.raised,
                    "standing": trace.standing,
                    "since": int(bets.since) + 1 if trace.standing else None,
                    "shift": shift,
                    "delay": delay(b, shift, self.share, bets.count),
                    "incidents": list(trace.incidents),
                }
            )
        return found

    def close(self) -> None:
        """Let the folder go."""
        self._lock.close()

    def _tolerated(self, name: str, kappa: float) -> float:
        reference, rows = self.reference, self.reference.rows(name)
        more = "make it of a longer run, allow a larger --delta, or watch fewer --alarms"
        if name in reference.events:
            if rows < (least := least_rows(self.share)):
                raise ConfigError(
                    f"the reference has {rows} answers for the alarm '{name}', but {least} are "
                    f"needed to tell a rate of 0 from {RARE:g} at this delta; {more}"
                )
            found = tolerated_rate(*reference.events[name], self.share, kappa)
            more = f"another --radius for the reference may do, or {more}"
        elif not kappa:
            return 0.5  # ranks in the pool are uniform
        else:
            found = tolerated_rank(rows, self.share, kappa)
        if found > HIGHEST:
            raise ConfigError(
                f"with {rows} answers in the reference the alarm '{name}' would have to tolerate a "
                f"mean of {found:.3f}, so that it could hardly be raised; {more}, or give a "
                "smaller --drift-budget"
            )
        return found

    def _open(self, about: dict[str, Any], traces: dict[str, Trace]) -> State:
        found = State.read(self.folder)
        if found is None:
            mine, theirs = self.reference, self.source.parameters[0]
            same = mine.parameters.get(RECORD) == theirs.get(RECORD) is not None
            begins = mine.notes.get("position") if same else None  # after its own answers
            return State(about, draw_seed(), traces, begins)
        for key, value in about.items():
            if found.about.get(key) != value:
                said = "another" if key == "reference" else f"{found.about.get(key)}, not {value}"
                raise RunError(
                    f"{self.folder} holds a watch whose {key.replace('_', ' ')} is {said}; what is "
                    "promised is fixed before the first answer, so begin anew with another --state"
                )
        if set(found.traces) != set(traces):
            raise RunError(f"{self.folder} holds a damaged state; begin anew with another --state")
        return found

    def _looked(
        self, chunk: Sequence[tuple[Observation, bool]]
    ) -> Iterator[tuple[Observation, bool]]:
        """Look at the inputs of a chunk without noise, where an alarm needs it."""
        bare = [not late and self._lacks(seen) for seen, late in chunk]
        fresh = [seen for (seen, _), one in zip(chunk, bare, strict=True) if one]
        if fresh and self.look is None:
            from deqcert.watch.clean import CleanLook

            self.look = CleanLook.of_notes(self.source)
        if fresh and self.look is not None:
            x = self.source.images(fresh)
            fresh = self.look.look(fresh, x, self.reference.distance)
        looked = iter(fresh)
        for (seen, late), one in zip(chunk, bare, strict=True):
            yield (next(looked) if one else seen), late

    def _lacks(self, seen: Observation) -> bool:
        """Whether an alarm rests on what only a look without noise can tell of this answer."""
        return any(
            RATES.get(name).needs == "clean" and seen.clean is None
            if name in RATES
            else name not in seen.scores
            for name in self.alarms
        )

    def _loss(self, name: str, trace: Trace, seen: Observation) -> float | None:
        if name in self.reference.events:
            happened = RATES.get(name).event(seen, self.reference.radius)
            return None if happened is None else float(happened)
        score = seen.scores.get(name)
        if score is None:
            return None
        place = (self.state.seed, zlib.crc32(name.encode()), trace.seen)
        coin = float(np.random.default_rng(place).random())
        if name in self._pools:
            return self._pools[name].rank(score, coin)
        known = np.array(self.reference.scores[name])
        below, equal = int((known < score).sum()), int((known == score).sum())
        return (below + coin * equal) / len(known)

    def _open_pools(self) -> dict[str, Pool]:
        return {
            name: Pool(
                self.reference.scores[name],
                self.folder / f"{name}-scores.f64",
                trace.evidence.count,
            )
            for name, trace in self.state.traces.items()
            if name in self.reference.scores
        }

    def _take(self, name: str, trace: Trace, seen: Observation) -> None:
        trace.seen += 1
        loss = self._loss(name, trace, seen)
        if loss is None:
            return
        bets = trace.evidence
        bets.add(loss)
        trace.total += loss
        trace.note()
        if loss > bets.tolerated:
            trace.recent.append(entry(seen, loss, bets.count))
        limit, recent = 1.0 / self.share, float(bets.recent)
        if trace.raised is None:
            if bool(bets.reached(self.share)):
                trace.raised = bets.count
                self._raise(name, trace, first=True)
        elif trace.standing:
            trace.standing = recent > 1.0
        elif recent >= limit:
            self._raise(name, trace, first=False)
        if trace.standing and recent > limit:  # so that the end of what goes on is seen soon
            bets.detector *= limit / recent

    def _raise(self, name: str, trace: Trace, *, first: bool) -> None:
        trace.standing = True
        bets, limit = trace.evidence, 1.0 / self.share
        since = int(bets.since) + 1
        file = f"{name}-{bets.count:09d}.json"
        statement = (
            f"raised falsely with probability at most {self.share:g}, ever"
            if first
            else f"a repeated alarm: falsely at most once in {limit:.0f} answers on average"
        )
        content = {
            "alarm": name,
            "about": f"how often {RATES.get(name).about}" if name in RATES else f"score {name}",
            "statement": statement,
            "raised": bets.count,
            "since": since,
            "evidence": float(bets.value) if first else float(bets.recent),
            "threshold": limit,
            "tolerated": float(bets.tolerated),
            "mean": trace.total / bets.count,
            "watch": {**self.state.about, "share": self.share},
            "source": {"name": self.source.name, "parameters": self.source.parameters[-1]},
            "inputs": [one for one in trace.recent if one["number"] >= since],
            "versions": versions(),
        }
        self.new.append(write_incident(self.folder, file, content))
        trace.incidents.append(file)


def _make(folder: Path) -> list[Path]:
    """Make a folder with its parents; return those that were made, the innermost first."""
    try:
        made = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RunError(f"{folder} is a file; give a folder with --state") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError):
            raise explain(error, f"make the folder {folder}", "give another --state") from None
        raise RunError(f"no folder can be named {str(folder)!r}; give another --state") from None
    return made
