"""What a workflow may do to a page: seven actions, each on an element named as a person sees it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

__all__ = ["Driver", "PageDriver"]


class Driver(Protocol):
    """Carries out actions in a browser; returns from each when the page has settled."""

    def open(self, url_path: str) -> None:
        """Goes to an address of the application, such as ``/store/``."""

    def click(self, role: str, name: str, nth: int = 0) -> None:
        """Clicks the nth element of this ARIA role and exact accessible name."""

    def fill(self, label: str, text: str) -> None:
        """Replaces what stands in the field with this label."""

    def select(self, label: str, option: str) -> None:
        """Chooses an option of the dropdown with this label, by the option's text."""

    def press(self, key: str) -> None:
        """Presses one key, by its DOM name, where the focus is."""

    def scroll(self, dy: int) -> None:
        """Turns the wheel in the middle of the page; ``dy`` > 0 goes down, CSS pixels."""

    def check(self, label: str, on: bool = True) -> None:
        """Ticks or clears the box with this label; nothing happens when it is so already."""


@dataclass(frozen=True)
class PageDriver:
    """The driver of a Playwright page, nothing recorded; ``origin`` is ``http://host:port`` of the applications."""

    page: "Page"
    origin: str

    def open(self, url_path: str) -> None:
        self.page.goto(f"{self.origin}/{url_path.lstrip('/')}", wait_until="load")

    def click(self, role: str, name: str, nth: int = 0) -> None:
        self.page.get_by_role(role, name=name, exact=True).nth(nth).click()  # type: ignore[arg-type]
        self._settle()

    def fill(self, label: str, text: str) -> None:
        self._labelled(label).fill(text)

    def select(self, label: str, option: str) -> None:
        self._labelled(label).select_option(label=option)
        self._settle()

    def press(self, key: str) -> None:
        """As the protocol says; where a key submits a form, returns on the page that follows."""
        focused = self.page.locator(":focus")
        if focused.count():  # an element's own press waits for the navigation it starts; the keyboard's does not
            focused.press(key)
        else:
            self.page.keyboard.press(key)
        self._settle()

    def scroll(self, dy: int) -> None:
        self.page.mouse.wheel(0, dy)

    def check(self, label: str, on: bool = True) -> None:
        self._labelled(label).set_checked(on)

    def _labelled(self, label: str) -> "Locator":
        exact = self.page.get_by_label(label, exact=True)
        return exact if exact.count() == 1 else self.page.get_by_label(label).first

    def _settle(self) -> None:
        self.page.wait_for_load_state("load")
