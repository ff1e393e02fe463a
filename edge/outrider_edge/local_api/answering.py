"""From a whole body to a report, whichever way it came: what both ways into the API share. Knows no connection."""

from http import HTTPStatus

import msgspec

from outrider_edge.journey.agent import Agent
from outrider_edge.local_api.submission import Wishes, parts_of_body
from outrider_wire.errors import CallerError
from outrider_wire.report import AnswerReport

_ENCODER = msgspec.json.Encoder()


async def answered(agent: Agent, task: str, body: bytes, content_type: str, wishes: Wishes) -> AnswerReport:
    """The report of one input of a task that is served; a body that is none is counted before it is refused.

    Raises:
        CallerError: it is not an input of the task.
        BundleMismatchError: the model on this device failed.
    """
    try:
        parts = parts_of_body(body, content_type)
    except CallerError as error:
        raise agent.refused(task, error) from error
    return await agent.submit(
        task,
        parts,
        wait=wishes.wait,
        answer_within_ms=wishes.answer_within_ms,
        group=wishes.group,
        insist=wishes.insist,
    )


def report_json(report: AnswerReport) -> tuple[int, bytes]:
    """HTTP status and JSON of a report."""
    return HTTPStatus.OK if report.final else HTTPStatus.ACCEPTED, _ENCODER.encode(report)
