"""Every named weakness of a figure, what it says and what to do; the report repeats these words and no others."""

from __future__ import annotations

from enum import Enum, unique

from edgekit.types import Caveat


@unique
class Weakness(Enum):
    """A weakness by its name: what is said of it, and the advice. FEW_SAMPLES is the code "few-samples".

    Those of one sentence that is all "{what}" bring their advice in it.
    """

    def __init__(self, says: str, advice: str) -> None:
        self.says = says
        self.advice = advice

    @property
    def code(self) -> str:
        """Its name in a report."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def of(cls, code: str) -> Weakness:
        """The weakness of that code. Raises KeyError."""
        return cls[code.upper().replace("-", "_")]

    # ---- what the figures are of ----
    EMULATED_LATENCY = (
        "latency is the emulator's, not the board's",
        "compare instructions instead, and only within one precision, because an fp32 instruction takes longer than an int8 one",
    )
    UNCOUNTED_LATENCY = (
        "latency is the emulator's, not the board's, and nothing counts instructions there",
        "use what fits in memory, and the outputs: they are the board's",
    )
    RANDOM_INPUTS = (
        "no data were given: inputs and calibration are random numbers, so int8 figures are a guess",
        "give yours with --data",
    )
    OPENED = ("{what}", "")
    NO_REFERENCE = (
        "the file is taken as it is, and nothing tells what it should answer",
        "give its float model with --reference",
    )
    NO_LABELS = ("the model has no labelled data", "fidelity is measured; for accuracy give labelled data with --data")
    CHANCE = (
        "accuracy is no better than guessing ({chance:.2%})",
        "look at the range of the pixels (--preprocess), at their layout, and at the order of the classes",
    )
    FEW_INPUTS = ("accuracy on {count} of {total} held-out inputs only", "leave out --samples to judge on all")
    NO_ACCURACY = ("accuracy could not be measured: {why}", "mend the metric; the other figures stand")
    NO_METRIC = ("no metric is known for the task '{task}', so accuracy is not measured", "name one with --metric")
    TORN_LINE = (
        "the last line of measurements.jsonl was torn by a crash, and that cell has no figures",
        "--resume redoes it",
    )
    UNFINISHED = ("the run ended early or goes on: {done} of {total} cells are measured", "--resume finishes it")

    # ---- the model in this runtime ----
    PARTIAL_DELEGATION = (
        "{delegated} of {total} operators run on the fast backend, the rest on reference kernels",
        "--operators names them",
    )
    NO_DELEGATE = (
        "no operator runs on the fast backend (XNNPACK)",
        "{runtime} has no kernels there for this model on this device: try another precision or runtime",
    )
    FALLEN_BACK = (
        "operators outside the fast backend take {share:.0%} of the time: {names}",
        "try another precision or format; --require-full-delegation refuses such a cell",
    )
    NOTHING_TO_DELEGATE = (
        "{runtime} has no fast backend beside its own kernels, so there is nothing to require of it",
        "leave out --require-full-delegation for it",
    )
    COARSE_OPERATORS = (
        "{share:.0%} of a profiled inference is outside any operator: the profiler tells whole microseconds, and takes time itself",
        "take the order of such short operators from it, no shares",
    )
    NO_OPERATORS = ("no time per operator: {why}", "the other figures stand")
    PARTLY_FLOAT = (
        "{count} of {total} {what} compute in float although {precision} was asked for",
        "edgekit inspect shows which",
    )
    WEIGHTS_KEPT = (
        "only {share:.0%} of the weights became smaller by {precision}; the format keeps the others as they were",
        "expect less than its usual gain",
    )
    SLOW_KERNELS = ("{what}", "another precision or format runs faster")
    SLOWER_THAN_FP32 = (
        "{precision} takes {ratio:.2f}x the time of fp32 in this runtime",
        "it bought size, not speed: try another precision or runtime",
    )
    SLOWER_RUNTIME = (
        "{runtime} needs {ratio:.1f}x the {what} of {other} for the very same file",
        "prefer {other} for it",
    )

    # ---- how it was timed and counted ----
    PYTHON_TIMER = (
        "timed from Python, which adds about a microsecond to a call",
        "install gcc for the native timing loop",
    )
    FEW_SAMPLES = ("only {count} timed samples: no percentile above the median is given", "raise --calls")
    INCONCLUSIVE = (
        "inconclusive: after {launches} launches and {seconds:.0f} s the median is known to ±{width:.1%} only, "
        "and ±{target:.1%} was wanted",
        "end what else runs there, or raise --max-seconds; to compare two models, edgekit ab needs no such width",
    )
    DRIFTING = (
        "inconclusive: runs on this device drift apart by ±{drift:.1%} (calibrated), so the median is known to ±{width:.1%} "
        "only, and ±{target:.1%} was wanted, however many launches there are",
        "quiet the device or fix its clock, and calibrate it anew; to compare two models, edgekit ab is not disturbed by drift",
    )
    UNSTEADY = (
        "in {unsteady} of {launches} launches two windows of calls still differed at the end of the warm-up",
        "something else uses the device or its clock changes: end it, or let the device rest",
    )
    ONE_LAUNCH = (
        "one launch only: another may differ by some percent, and no interval is given",
        "leave out --launches, or ask for several",
    )
    TIME_CAP = ("stopped at the time cap after {count} of {wanted} samples", "raise --max-seconds")
    MORE_THREADS_THAN_CORES = ("{threads} threads share {cores} cores", "ask for at most as many threads as cores")
    UNSTEADY_COUNTS = (
        "instruction counts differ by {spread:.1%} from call to call, as those of threads that wait for one another do",
        "take no smaller difference for one of the model",
    )
    RUN_PEAK_INCLUDES_LOAD = (
        "this kernel cannot restart the memory peak, so the run peak includes the load",
        "read it as the higher of the two",
    )

    # ---- the device while it was measured: evidence.py has the thresholds ----
    BUSY = (
        "other programs used {share:.0%} of the cores' time meanwhile: latency is higher and less steady than it can be",
        "end what else runs there",
    )
    THROTTLED = (
        "the device slowed itself down while this ran ({what})",
        "a stronger power supply against under-voltage, a fan or a pause against heat",
    )
    CLOCK_FELL = (
        "the clock of the core fell from {high_mhz} to {low_mhz} MHz while this ran",
        "cool the device, or set a lower clock that it can hold",
    )
    CLOCK_MOVED = (
        "the launches ran at clocks between {low_mhz} and {high_mhz} MHz (governor {governor})",
        "set the governor to performance where you may; else compare with edgekit ab, which measures in turns",
    )
    CLOCK_LOW = (
        "the core ran at {mhz} of its {most_mhz} MHz all along",
        "lift what limits it (governor, power mode, heat), or tell the clock with the figure",
    )
    CLOCK_UNKNOWN = (
        "the governor {governor} may change the clock, and the kernel does not tell the clock",
        "set the governor to performance",
    )
    STOLEN = (
        "the hypervisor took {share:.1%} of the time that this machine wanted to run",
        "measure on a machine with cores of its own, or when its neighbours are quiet",
    )
    SWAPPING = (
        "memory was short: programs waited for it {share:.1%} of the time, {swapped_mb:.0f} MB were swapped",
        "end what else runs there, or measure a smaller model",
    )
    SLOWS_DOWN = (
        "it runs {share:.0%} slower from {after} of work on than at the start",
        "choose by the steady state, not by a short measurement",
    )
    NO_STEADY_STATE = (
        "no steady state within {ran}: the latency still changed by more than 3 %",
        "a longer --sustained, on a device with nothing else to do",
    )
    NO_ENERGY = ("energy could not be measured: {why}", "a power meter on a serial line can (--power-meter)")
    ENERGY_WITHIN_NOISE = (
        "the device draws no more while it runs the model than idle, by more than the noise of this source",
        "end what else runs there, or use a finer power meter (--power-meter)",
    )
    ON_BATTERY = ("the machine runs on its battery, which often limits its clock", "plug it in")


def caveat(code: str, **figures: object) -> Caveat:
    """The caveat of that code with its figures filled in. Raises KeyError for a code or a figure that is not known."""
    weakness = Weakness.of(code)
    sentence = f"{weakness.says}: {weakness.advice}" if weakness.advice else weakness.says
    return Caveat(code, sentence.format(**figures))
