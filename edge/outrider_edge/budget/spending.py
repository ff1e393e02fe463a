"""Every task's budget on this device, on its clock, remembered where the escalations are. Decides nothing itself."""

from collections.abc import Callable, Mapping

from outrider_edge.budget.budget import LimitView, TaskBudget
from outrider_edge.outbox.clock import RunClock
from outrider_wire.task import Budget


class Spending:
    """The budgets of the tasks that have one.

    Args:
        terms: by task.
        clock: this machine's.
        saved: what `remember` was given, before this start.
        remember: keeps a task's budget; durable no later than the escalation that is handed over next.
    """

    def __init__(
        self,
        *,
        terms: Mapping[str, Budget],
        clock: RunClock,
        saved: Mapping[str, str],
        remember: Callable[[str, str], None],
    ) -> None:
        now = clock.now()
        budgets = {
            task: TaskBudget(budget, now=now, boot_id=clock.boot_id, saved=saved.get(_key(task), "").encode())
            for task, budget in terms.items()
        }
        self._budgets = {task: budget for task, budget in budgets.items() if budget.limited}
        self._clock = clock
        self._remember = remember

    def __contains__(self, task: str) -> bool:
        """Whether that task sets any limit."""
        return task in self._budgets

    def ask(self, task: str, *, gain: float, size: int, insist: bool) -> str:
        """As `TaskBudget.ask`; '' for a task without limits."""
        if (budget := self._budgets.get(task)) is None:
            return ""
        if problem := budget.ask(self._clock.now(), gain=gain, size=size, insist=insist):
            return problem
        self._save(task, budget)
        return ""

    def ask_spare(self, task: str, *, size: int) -> bool:
        """As `TaskBudget.ask_spare`; True for a task without limits."""
        if (budget := self._budgets.get(task)) is None:
            return True
        if allowed := budget.ask_spare(self._clock.now(), size=size):
            self._save(task, budget)
        return allowed

    def could_afford(self, task: str, *, size: int) -> bool:
        """As `TaskBudget.could_afford`; True for a task without limits."""
        budget = self._budgets.get(task)
        return budget is None or budget.could_afford(size=size)

    def count_audit(self, task: str, *, size: int) -> None:
        """As `TaskBudget.count_audit`."""
        if (budget := self._budgets.get(task)) is not None:
            budget.count_audit(self._clock.now(), size=size)
            self._save(task, budget)

    def count_pulled(self, task: str, *, size: int, audit: bool) -> None:
        """As `TaskBudget.count_pulled`."""
        if (budget := self._budgets.get(task)) is not None:
            budget.count_pulled(self._clock.now(), size=size, audit=audit)
            self._save(task, budget)

    def view(self, task: str) -> dict[str, LimitView]:
        """As `TaskBudget.view`; empty for a task without limits."""
        budget = self._budgets.get(task)
        return budget.view(self._clock.now()) if budget is not None else {}

    def _save(self, task: str, budget: TaskBudget) -> None:
        self._remember(_key(task), budget.save(self._clock.now()).decode())


def _key(task: str) -> str:
    return f"budget/{task}"
