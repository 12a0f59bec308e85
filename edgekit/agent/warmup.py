"""The calls before anything is timed: how many there must be, and when they are enough. Standard library only, Python 3.9."""

BATCH_FLOOR_NS = 1_000_000  # a sample shorter than this is mostly timer noise, so calls are batched up to it
MAX_BATCH = 100_000
WINDOW = 20  # samples; two windows in a row that agree end the warm-up
WINDOW_NS = 200_000_000  # of slow calls a window is as many as fit in here ...
AWAKE_WINDOW_NS = 50_000_000  # ... right after another launch, when the device is up and only the process is cold
LEAST_WINDOW = 3  # ... but so many
CAP_NS = 3_000_000_000  # no longer than this, whether the windows agree or not
MEDIAN_AGREES = 0.03  # the medians of two windows agree up to this share of them
SPREAD_AGREES = 0.20  # and their spreads up to this share, or
SPREAD_MATTERS = 0.01  # up to this share of the median: the spread of twenty samples is itself known to a fourth only


def median(values):
    """The middle one, of an even number the upper of the two."""
    return sorted(values)[len(values) // 2]


def spread(values):
    """Median absolute deviation from the median."""
    middle = median(values)
    return median([abs(value - middle) for value in values])


def agree(before, after, spreads=True):
    """Whether two windows of times tell the same latency; without `spreads` their medians decide alone."""
    level = median(before)
    if abs(median(after) - level) > MEDIAN_AGREES * level:
        return False
    if not spreads:
        return True
    spreads = (spread(before), spread(after))
    return abs(spreads[1] - spreads[0]) <= max(SPREAD_AGREES * spreads[0], SPREAD_MATTERS * level)


def batch_for(typical_ns, floor_ns, least):
    """Calls per sample, so that a sample is not shorter than `floor_ns`."""
    calls = -(-floor_ns // max(1, typical_ns)) if typical_ns < floor_ns else 1
    return max(least, min(MAX_BATCH, calls))


class WarmUp:
    """What was called before the timed part: `calls`, the `spent_ns` on them, the `typical_ns` of one at the end.

    `steady` says whether the last two windows agreed; None where nothing was compared.
    """

    def __init__(self, first_ns):
        self.calls = 0
        self.spent_ns = 0
        self.typical_ns = first_ns
        self.steady = None

    def run(self, watch, least_calls, least_ns, windows=True, awake=False):
        """Call until it is enough: at least `least_calls` and `least_ns`, then until two windows agree or CAP_NS is over.

        Without a `least_ns` and without `windows` nothing is compared. On a device that is `awake` the windows are short, and
        their medians decide alone: what a fresh process has to warm up makes its calls slower, not more varied. Short calls are
        batched, as they are when timed.
        """
        singles = []
        while len(singles) < least_calls or (self.spent_ns < least_ns and not windows):
            singles += self.took(watch.time(1, 1)[0], 1)
        if singles:
            self.typical_ns = median(singles)
        if not windows or not least_ns:
            return
        batch = batch_for(self.typical_ns, BATCH_FLOOR_NS, 1)
        window_ns = AWAKE_WINDOW_NS if awake else WINDOW_NS
        count = max(LEAST_WINDOW, min(WINDOW, window_ns // max(1, self.typical_ns * batch)))
        window = singles[-count:] if batch == 1 and len(singles) >= count else []
        while not (self.steady and self.spent_ns >= least_ns) and (self.steady is None or self.spent_ns < CAP_NS):
            before, window = window, self.took(watch.time(count, batch)[0], batch)
            self.steady = agree(before, window, not awake) if before else None
        self.typical_ns = median(window) // batch

    def took(self, times, batch):
        """The same times, added up."""
        self.calls += batch * len(times)
        self.spent_ns += sum(times)
        return times
