"""The HTTP side of the service."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deqcert import __version__
from deqcert.errors import ConfigError, DataError, RunError
from deqcert.serve.alarms import read_alarms
from deqcert.serve.answers import (
    CertifyAnswer,
    CertifyQuery,
    FeedbackAnswer,
    FeedbackQuery,
    PredictAnswer,
    PredictQuery,
    Problem,
    RecordAnswer,
    SetAnswer,
    SetQuery,
)
from deqcert.serve.images import KINDS, Upload, read_upload
from deqcert.serve.limits import Refused
from deqcert.serve.logs import LOGGER, log
from deqcert.serve.service import Service
from deqcert.serve.votes import count_votes

SLOWEST_BODY = 30.0
"""Seconds in which a request's body must have come."""

SHORT_BODY = 4096
"""Bytes of a body that is read where it comes; no more than 4 MB can be packed into it."""

EVENTS = "text/event-stream"

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Made = TypeVar("Made")

_BODY = {
    "requestBody": {
        "required": True,
        "description": "The image: a PNG or JPEG picture, an array as numpy.save writes it (uint8, "
        'or floats in [0, 1]), or JSON: {"pixels": [[[0.5, ...]]]} with numbers in [0, 1] or '
        '{"bytes": [[[128, ...]]]} with whole numbers to 255; channels by rows by columns.',
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            if kind != "application/json"
            else {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {
                        name: {"type": "array", "items": {}} for name in ("pixels", "bytes")
                    },
                }
            }
            for kind in KINDS
        },
    }
}
_REFUSALS: dict[int | str, Any] = {
    status: {"model": Problem, "description": about}
    for status, about in {
        400: "The body could not be read.",
        401: "The key is missing or nobody's.",
        408: "The body came too slowly.",
        413: "The body or the picture is too large.",
        415: "The content type is none that is taken.",
        422: "The image or a parameter cannot be used.",
        429: "Too many requests are being worked on; see Retry-After.",
        503: "The service is stopping, or cannot keep records.",
    }.items()
}


def make_app(service: Service) -> ASGIApp:
    """Make the application of a service; when it ends, the service is closed.

    Args:
        service: The service.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        # Whoever was being answered has the answer by now.
        await asyncio.to_thread(app.state.pool.shutdown)
        await asyncio.to_thread(service.close)
        log("stopped")

    app = FastAPI(
        title="deqcert",
        version=__version__,
        summary="Classes with certified radii of a smoothed implicit model.",
        lifespan=life,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.state.pool = ThreadPoolExecutor(service.serving.queue, thread_name_prefix="request")
    expected = (Refused, DataError, ConfigError, RunError, RequestValidationError, HTTPException)
    for kind in (*expected, Exception):
        app.add_exception_handler(kind, _refuse)
    route: dict[str, Any] = {"openapi_extra": _BODY, "responses": _REFUSALS}
    app.post("/v1/predict", response_model=PredictAnswer, **route)(predict)
    app.post("/v1/certify", response_model=CertifyAnswer, **route)(certify)
    app.post("/v1/set", response_model=SetAnswer, **route)(answer_set)
    refusals: dict[str, Any] = {"responses": {s: _REFUSALS[s] for s in (401, 503)}}
    app.get("/v1/model", **refusals)(model)
    app.get("/v1/alarms", **refusals)(alarms)
    missing: dict[int | str, Any] = {
        404: {"model": Problem, "description": "There is no such answer of yours."}
    }
    app.get(
        "/v1/records/{id}",
        response_model=RecordAnswer,
        responses=missing | {s: _REFUSALS[s] for s in (401, 503)},
    )(record)
    told: dict[int | str, Any] = {
        409: {"model": Problem, "description": "Another class was told before."}
    }
    app.post(
        "/v1/feedback",
        response_model=FeedbackAnswer,
        responses=missing | told | {s: _REFUSALS[s] for s in (401, 422, 503)},
    )(feedback)
    app.get("/healthz")(healthz)
    app.get("/readyz", responses={503: _REFUSALS[503]})(readyz)
    app.get("/metrics", response_class=Response)(metrics)
    app.mount("/", StaticFiles(directory=Path(__file__).parent / "page", html=True))

    return _Outermost(app)


class _Outermost:
    """Give every answer its headers, and the commonest one without the framework's layers.

    Those cost more than all else that is done for a prediction, its solve included.

    Args:
        app: What answers everything.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        bare = scope["type"] == "http" and not scope["query_string"]
        if not bare or (scope["method"], scope["path"]) != ("POST", "/v1/predict"):
            await self._app(scope, receive, headed)
            return
        request = Request({**scope, "app": self._app}, receive)
        try:
            response: Response = await predict(request, PredictQuery())
        except Exception as error:
            response = await _refuse(request, error)
        await response(scope, receive, headed)


async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Any:
    """The model's own answer to the image as it is: one solve, and no promise."""
    service = _service(request)

    async def work(upload: Upload, client: str | None) -> Mapping[str, Any]:
        return (await asyncio.wrap_future(service.predict(upload, client))).answer

    return await _answered(request, "predict", query.resize, work)


async def certify(request: Request, query: Annotated[CertifyQuery, Query()]) -> Any:
    """A class and the radius within which it cannot change, with probability 1 - alpha.

    With ``Accept: text/event-stream`` the votes come as they are cast: events ``progress``, then
    ``answer`` or ``problem``.
    """
    service, arrived = _service(request), time.monotonic()
    asked = await asyncio.to_thread(
        service.question, query.n, query.alpha, query.goal, query.deadline
    )
    if EVENTS in request.headers.get("accept", ""):
        return await _told(request, query.resize, asked, arrived)

    async def work(upload: Upload, client: str | None) -> Mapping[str, Any]:
        whole = functools.partial(service.certify, upload, asked, client, arrived=arrived)
        return await _in_pool(request, whole)

    return await _answered(request, "certify", query.resize, work)


async def answer_set(request: Request, query: Annotated[SetQuery, Query()]) -> Any:
    """Every class that may be true; the true one is among them with probability 1 - alpha."""
    service = _service(request)

    async def work(upload: Upload, client: str | None) -> Mapping[str, Any]:
        whole = functools.partial(service.set, upload, query.alpha, query.radius, client)
        return await _in_pool(request, whole)

    return await _answered(request, "set", query.resize, work)


async def model(request: Request) -> dict[str, Any]:
    """What answers, and within which limits."""
    _client(request)
    return _service(request).model()


async def alarms(request: Request) -> dict[str, Any]:
    """The state of the alarms that watch this service."""
    _client(request)
    return await asyncio.to_thread(read_alarms, _service(request).serving.out)


async def record(request: Request, id: str) -> dict[str, Any]:
    """All that an answer came from; the command in ``replay`` computes its votes again."""
    service, client = _service(request), _client(request)
    found = await asyncio.to_thread(service.reader.find, id)
    if found is None or found.client != client:
        raise Refused(404, "there is no such answer of yours.")
    return {
        "id": found.id,
        "number": found.number,
        "time": found.time,
        "mode": found.mode,
        "image_sha256": found.image_sha256,
        "pixels": found.pixels.tolist(),
        "seed": None if found.seed is None else f"{found.seed:032x}",
        "asked": found.asked,
        "answer": found.answer,
        "votes": {
            str(stage): count_votes(votes, service.classes).tolist()
            for stage, votes in found.votes.items()
        },
        "about": found.about,
        "digest": found.digest,
        "replay": f"deqcert replay {found.id} --service {service.serving.out}",
    }


async def feedback(request: Request, query: Annotated[FeedbackQuery, Query()]) -> dict[str, Any]:
    """Tell the true class of one of your answers, once; whoever watches the service counts errors.

    What was told stays. The same class may be told again.
    """
    service, client = _service(request), _client(request)
    known = await asyncio.to_thread(service.feedback, query.id, query.class_, client)
    log("feedback", id=query.id, client=client)
    return {"id": query.id, "class": known}


async def healthz() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


async def readyz(request: Request) -> dict[str, str]:
    """Whether the known input has its known votes, and records can be kept."""
    fault = await asyncio.to_thread(_service(request).fault)
    if fault is not None:
        raise Refused(503, fault)
    return {"status": "ready"}


async def metrics(request: Request) -> Response:
    """Counters in Prometheus' text format."""
    text = _service(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def _client(request: Request) -> str | None:
    """Return who asks; None where nobody needs a key.

    Raises:
        Refused: If the key is missing or nobody's.
    """
    keys = _service(request).keys
    if not keys.needed:
        return None
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    found = keys.client(key.strip() if scheme.lower() == "bearer" else None)
    if found is None:
        raise Refused(401, "give your key in the header Authorization: Bearer KEY.")
    return found


async def _body(request: Request) -> bytes:
    """Read a body that is not too large and does not take for ever."""
    most = _service(request).serving.largest_body
    refusal = Refused(413, f"the body has more than the {most} bytes that are taken.")
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and (len(stated) > 18 or int(stated) > most):
        raise refusal
    found = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            async for part in request.stream():
                found += part
                if len(found) > most:
                    raise refusal
    except TimeoutError:
        raise Refused(408, f"the body did not come within {SLOWEST_BODY:g} s.") from None
    except ClientDisconnect:
        raise Refused(400, "the body was cut off.") from None
    return bytes(found)


class _Place:
    """A request's place among those that are worked on, and what is counted of it."""

    def __init__(self, request: Request, mode: str) -> None:
        self.service, self.mode, self.status = _service(request), mode, 500
        self.client, self.began = _client(request), time.perf_counter()
        self.id: str | None = None
        self.service.admission.enter()

    def leave(self) -> None:
        seconds = time.perf_counter() - self.began
        self.service.admission.leave(seconds)
        self.service.metrics.requests.labels(self.mode, self.status).inc()
        self.service.metrics.seconds.labels(self.mode).observe(seconds)
        log(
            "request",
            mode=self.mode,
            status=self.status,
            id=self.id,
            client=self.client,
            seconds=round(seconds, 6),
        )

    def failed(self, error: BaseException) -> None:
        self.status = _status(error)


def _enter(request: Request, mode: str) -> _Place:
    try:
        return _Place(request, mode)
    except Refused as error:
        _service(request).metrics.requests.labels(mode, error.status).inc()
        log("request", mode=mode, status=error.status)
        raise


async def _in_pool(request: Request, work: Callable[[], Made]) -> Made:
    """Do what takes its time in a thread of its own."""
    return await asyncio.get_running_loop().run_in_executor(request.app.state.pool, work)


async def _upload(request: Request, resize: bool) -> Upload:
    """Read a request's image."""
    service, body = _service(request), await _body(request)
    kind = request.headers.get("content-type", "")
    read = functools.partial(read_upload, body, kind, service.shape, service.serving, resize=resize)
    # So little cannot take long, unless it says that it is large and is to be scaled; going to
    # another thread and back would.
    return read() if len(body) <= SHORT_BODY and not resize else await _in_pool(request, read)


async def _answered(
    request: Request,
    mode: str,
    resize: bool,
    work: Callable[[Upload, str | None], Awaitable[Mapping[str, Any]]],
) -> JSONResponse:
    place = _enter(request, mode)
    try:
        answer = await work(await _upload(request, resize), place.client)
        place.status, place.id = 200, answer["id"]
        return JSONResponse(answer)
    except BaseException as error:
        place.failed(error)
        raise
    finally:
        place.leave()


async def _told(request: Request, resize: bool, asked: Any, arrived: float) -> Response:
    """Answer as events, with the votes as they are cast."""
    place = _enter(request, "certify")
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    gone = False
    try:
        upload = await _upload(request, resize)
    except BaseException as error:
        place.failed(error)
        place.leave()
        raise

    def send(event: str, data: Any) -> None:
        loop.call_soon_threadsafe(events.put_nowait, (event, data))

    def work() -> None:
        try:
            answer = place.service.certify(
                upload,
                asked,
                place.client,
                arrived=arrived,
                tell=lambda now: send("progress", now),
                given_up=lambda: gone,
            )
            place.status, place.id = 200, answer["id"]
            send("answer", answer)
        except Exception as error:
            place.failed(error)
            if place.status == 500:
                LOGGER.exception("failed")
            send("problem", {"error": _sentence(error)})
        finally:
            place.leave()

    async def lines() -> AsyncIterator[str]:
        nonlocal gone
        try:
            while True:
                event, data = await events.get()
                yield f"event: {event}\ndata: {json.dumps(data)}\n\n"
                if event != "progress":
                    return
        finally:
            gone = True

    request.app.state.pool.submit(work)
    return StreamingResponse(lines(), media_type=EVENTS)


def _status(error: BaseException) -> int:
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, (DataError, ConfigError, RequestValidationError)):
        return 422
    if isinstance(error, RunError):
        return 503
    return error.status_code if isinstance(error, HTTPException) else 500


def _sentence(error: Exception) -> str:
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        text = {
            404: "there is nothing at this address; /openapi.json lists what there is",
            405: "this address does not take that method; /openapi.json lists what there is",
        }.get(error.status_code, str(error.detail))
    else:
        text = "this failed for a reason that is not yours; it is in the service's log"
        if _status(error) != 500:
            text = " ".join(str(error).split())
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _invalid(error: RequestValidationError) -> str:
    first: dict[str, Any] = dict(error.errors()[0])
    name = str(first["loc"][-1])[:60] if first.get("loc") else "the request"
    if first["type"] == "extra_forbidden":
        return f"there is no parameter {name}; /openapi.json lists what there is."
    given = str(first.get("input"))[:60]
    return f"{name} is {given!r}: {str(first['msg'])[:200].lower()}."


async def _refuse(request: Request, error: Exception) -> Response:
    if _status(error) == 500:
        LOGGER.error("failed", exc_info=error)
    headers = dict(getattr(error, "headers", None) or {})
    wait = getattr(error, "wait", None)
    if wait is not None:
        headers["Retry-After"] = str(wait)
    status = _status(error)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": _sentence(error)}, status, headers=headers)
