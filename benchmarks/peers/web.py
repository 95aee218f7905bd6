"""What the peers on FastAPI share: the body as a model, 400 for what does not fit."""

from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from benchmarks.peers import job


class Submission(BaseModel):
    """The body of a POST."""

    name: Annotated[str, Field(strict=True, min_length=1, max_length=job.MAX_NAME)]
    kind: Literal["simulate", "noop", "wait"] = "simulate"
    duration: Annotated[int, Field(strict=True, ge=0, le=job.MAX_DURATION)] = job.DEFAULT_DURATION


class Accepted(BaseModel):
    """The body of a 202."""

    task_id: str
    name: str
    status: str
    message: str


def new_app(**settings: Any) -> FastAPI:
    """An application with 400 instead of 422, and ``GET /health/live``."""
    app = FastAPI(openapi_url=None, **settings)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": error.errors()[0]["msg"]}, 400)

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    return app
