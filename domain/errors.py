"""Refusals: what may not be done, and why. Nothing is recorded when one is raised."""

from typing import ClassVar


class Refused(Exception):
    """A command that is refused. `code` is stable and short, the text names the field and is for people."""

    code: ClassVar[str] = "refused"


class InvalidField(Refused):
    """A field of the request has a value that it may not have."""

    code = "invalid_field"


class InvalidSchedule(Refused):
    """The schedule is outside the grammar or can never fire."""

    code = "invalid_schedule"


class InvalidTimezone(Refused):
    """The zone is not one of the pinned tzdata package."""

    code = "invalid_timezone"


class NotSupported(Refused):
    """The field is known but not honoured yet; accepting it would drop it silently."""

    code = "not_supported"


class ContradictoryRequest(Refused):
    """Two fields of the request exclude each other."""

    code = "contradictory_request"


class IncompleteRequest(Refused):
    """A part of the request without which it names nothing is empty or absent."""

    code = "incomplete_request"


class EmptyUpdate(Refused):
    """An update that names no field."""

    code = "empty_update"


class NotFound(Refused):
    """The object does not exist or is not visible to the caller."""

    code = "not_found"


class CronNotFound(NotFound):
    """There is no such cron."""

    code = "cron_not_found"


class ThreadNotFound(NotFound):
    """There is no such thread."""

    code = "thread_not_found"


class BackfillNotFound(NotFound):
    """There is no such backfill of that cron."""

    code = "backfill_not_found"


class DeliveryNotFound(NotFound):
    """There is no such delivery."""

    code = "delivery_not_found"


class RunNotFound(NotFound):
    """There is no such run on this thread."""

    code = "run_not_found"


class ThreadWithoutGraph(Refused):
    """The thread's state can't be written, because nothing says which graph it belongs to."""

    code = "thread_without_graph"


class AssistantNotFound(NotFound):
    """There is no such assistant or graph."""

    code = "assistant_not_found"


class AssistantVersionNotFound(NotFound):
    """The assistant has no version of that number."""

    code = "assistant_version_not_found"


class DefaultAssistant(Refused):
    """The assistant stands for a graph of the project, and stays as long as the graph does."""

    code = "default_assistant"


class AlreadyExists(Refused):
    """The id is taken."""

    code = "already_exists"


class ThreadBusy(Refused):
    """The thread has a run in flight and the new one may not wait."""

    code = "thread_busy"


class CronBusy(Refused):
    """An earlier run of the cron is not over and the new one may not wait."""

    code = "cron_busy"


class LaneFull(Refused):
    """Too many runs wait on the thread, or of the cron, already."""

    code = "lane_full"


class TooManyCrons(Refused):
    """The user has as many crons as one user may have."""

    code = "too_many_crons"


class AnswerTooLarge(Refused):
    """The answer would be larger than one answer may be."""

    code = "answer_too_large"


class RunNotActive(Refused):
    """The run has already ended."""

    code = "run_not_active"


class MustRollBack(Refused):
    """The run was asked to be undone: its checkpoints must be restored before it ends."""

    code = "must_roll_back"


class GraphFailed(Refused):
    """The graph raised when it was asked about itself; the text is for its author."""

    code = "graph_failed"
