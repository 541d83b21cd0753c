"""A workflow: one goal with slots, ways to carry it out in the browser, and a question to the database whether it is met."""

from collections.abc import Callable
from dataclasses import dataclass

from sheaf.common.apps.driver import Driver
from sheaf.common.apps.server import AppServer
from sheaf.common.apps.texts import plain, procedure

__all__ = ["POLICIES", "Slots", "Walk", "Workflow"]

POLICIES = ("direct", "detour", "redundant", "keyboard", "backtrack", "wrong")
Slots = dict[str, str]


@dataclass(frozen=True)
class Workflow:
    """One thing people do in an application.

    Attributes:
        id: ``site/name``.
        intent: the task in one sentence, with ``{slots}``.
        fillings: values of the slots, at least three sets; each names things that exist in the seeded applications.
        act: carries the task out; see ``perform``.
        check: whether the database is as the task wants it, and nothing near it was changed.
        policies: the ways it can be carried out.
    """

    id: str
    site: str
    intent: str
    fillings: tuple[Slots, ...]
    act: "Callable[[Walk, Slots], None]"
    check: Callable[[AppServer, Slots], bool]
    policies: tuple[str, ...] = POLICIES

    @property
    def gold_sop(self) -> tuple[str, ...]:
        """The title, then the steps as a person of that office wrote them down, with ``{slots}``, without numbers."""
        text = procedure(self.id)
        return plain(text.titles[0]), *(plain(step.say[0]) for step in text.steps)

    def perform(self, driver: Driver, slots: Slots, policy: str) -> None:
        """Carries the task out in one of the ways: the shortest, with a detour, with steps done twice, by keyboard and
        typed addresses, by way of a wrong record and back, or plausibly but wrongly.

        Raises:
            ValueError: the workflow has no such policy.
        """
        if policy not in self.policies:
            raise ValueError(f"{self.id} has no policy {policy!r}; it has {', '.join(self.policies)}")
        self.act(Walk(driver, self.site, policy), slots)


@dataclass(frozen=True)
class Walk:
    """A driver with a policy: the moves that most tasks are made of, each as that policy makes it."""

    driver: Driver
    site: str
    policy: str

    @property
    def wrong(self) -> bool:
        return self.policy == "wrong"

    def enter(self, section: str, model: str, astray: str = "") -> None:
        """From the start page of the site to the list of ``section``; ``astray`` is a list one could look at first."""
        self.driver.open(f"/{self.site}/")
        if self.policy == "keyboard":
            self.driver.open(f"/{self.site}/{self.site}/{model}/")
            return
        if self.policy == "detour" and astray:
            self.driver.click("link", astray)
        self.driver.click("link", section)
        if self.policy == "redundant":
            self.driver.click("link", section)

    def search(self, things: str, text: str) -> None:
        """Types into the search bar of the list of ``things`` and runs the search."""
        self.driver.fill(f"Search {things}", text)
        if self.policy == "keyboard":
            self.driver.press("Enter")
        else:
            self.driver.click("button", "Search")
            if self.policy == "redundant":
                self.driver.click("button", "Search")

    def find(self, section: str, text: str, row: str = "", instead: str = "") -> None:
        """Searches a list and opens the record; the backtracking policy opens ``instead`` first and returns."""
        if self.policy == "backtrack" and instead:
            self.driver.click("link", instead)
            self.driver.click("link", section)
        self.search(section.lower(), text)
        self.driver.click("link", row or text)

    def narrow(self, option: str, model: str, query: str) -> None:
        """Keeps the rows that an option of the filter column stands for; by keyboard as ``query`` in the address."""
        if self.policy == "keyboard":
            self.driver.open(f"/{self.site}/{self.site}/{model}/?{query}")
            return
        self.driver.click("link", option)
        if self.policy == "redundant":
            self.driver.click("link", option)

    def add(self, section: str, thing: str) -> None:
        """Opens the empty form from a list; the backtracking policy leaves it once and comes back."""
        self.driver.click("link", f"Add {thing}")
        if self.policy == "backtrack":
            self.driver.click("link", section)
            self.driver.click("link", f"Add {thing}")

    def tick(self, row: str) -> None:
        """Ticks the box of a row; the backtracking policy unticks and ticks it again."""
        label = f"Select this object for an action - {row}"
        self.driver.check(label)
        if self.policy == "backtrack":
            self.driver.check(label, on=False)
            self.driver.check(label)

    def tick_all(self) -> None:
        """Ticks every row of the page by the box in the head of the table."""
        label = "Select all objects on this page for an action"
        self.driver.check(label)
        if self.policy == "backtrack":
            self.driver.check(label, on=False)
            self.driver.check(label)

    def apply(self, action: str) -> None:
        """Chooses an action for the ticked rows and runs it."""
        self.driver.select("Action", action)
        self.driver.click("button", "Go")

    def save(self) -> None:
        """Saves the form."""
        self.driver.click("button", "Save")
