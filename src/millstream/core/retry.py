"""What to do with a delivery that failed: a decision, taken without waiting."""

import msgspec

# 2**30 seconds is 34 years; beyond it a float exponent only risks an overflow.
MOST_DOUBLINGS = 30


class Again(msgspec.Struct, frozen=True):
    """Try again after so many seconds."""

    after: float


class Park(msgspec.Struct, frozen=True):
    """Give up: the delivery becomes a dead letter, for this reason."""

    reason: str


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """One policy for all failures of a handler.

    `attempts` counts the first one too. Waits grow from `first` by `factor` up to
    `longest` seconds, each shortened by a random share of at most `jitter`.
    Only errors that are instances of `on` are tried again; those in `give_up_on`
    never are, even when `on` has a parent of theirs.
    """

    attempts: int = 5
    first: float = 1.0
    longest: float = 300.0
    factor: float = 2.0
    jitter: float = 0.1
    on: tuple[type[BaseException], ...] = (Exception,)
    give_up_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"Retry(attempts={self.attempts}): needs at least 1; attempts counts the first try")
        if self.first < 0 or self.longest < self.first:
            raise ValueError(f"Retry(first={self.first}, longest={self.longest}): needs 0 <= first <= longest")
        if self.factor < 1 or not 0 <= self.jitter <= 1:
            raise ValueError(f"Retry(factor={self.factor}, jitter={self.jitter}): needs factor >= 1 and 0 <= jitter <= 1")

    def decide(self, attempt: int, error: BaseException, chance: float) -> Again | Park:
        """Say what follows once attempt number `attempt` (from 1) has failed.

        `chance` in [0, 1) places the wait within the jitter.
        """
        if isinstance(error, self.give_up_on):
            return Park(f"{type(error).__name__} is never tried again")
        if not isinstance(error, self.on):
            return Park(f"{type(error).__name__} is not among the errors to try again")
        if attempt >= self.attempts:
            return Park(f"gave up after {attempt} attempts")
        wait = min(self.first * self.factor ** min(attempt - 1, MOST_DOUBLINGS), self.longest)
        return Again(wait * (1 - self.jitter * chance))
