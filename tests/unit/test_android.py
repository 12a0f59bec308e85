"""What Android's getprop and dumpsys print, read by the agent."""

from __future__ import annotations

import pytest

from edgekit.agent import android

THERMAL = """IsStatusOverride: false
Thermal Status: 2
Cached temperatures:
	Temperature{mValue=70.0, mType=0, mName=CPU0, mStatus=2}
Current temperatures from HAL:
	Temperature{mValue=41.25, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=43.5, mType=0, mName=CPU1, mStatus=0}
	Temperature{mValue=60.5, mType=3, mName=skin, mStatus=0}
Current cooling devices from HAL:
"""
BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  present: {present}
  level: 43
  scale: 50
  temperature: 271
  technology: Li-ion
"""
PROPERTIES = """[ro.build.version.release]: [15]
[ro.build.version.sdk]: [35]
[ro.build.fingerprint]: [google/shiba/shiba:15/AP3A/1:user/release-keys]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G3]
[persist.sys.empty]: []
"""


def test_what_getprop_and_dumpsys_print_is_understood() -> None:
    assert android.described(PROPERTIES) == {
        "os": "Android 15 (API 35)",
        "model": "Google Pixel 8",
        "soc": "Google Tensor G3",
        "build": "google/shiba/shiba:15/AP3A/1:user/release-keys",
    }
    same = PROPERTIES.replace("[Pixel 8]", "[Google Pixel 8]").replace("ro.soc", "no.soc")
    assert android.described(same)["model"] == "Google Pixel 8"
    assert "soc" not in android.described(same)
    assert android.battery(BATTERY.format(present="true")) == {
        "battery_percent": 86,
        "battery_temperature_c": 27.1,
        "plugged": "USB",
    }
    assert android.thermal(THERMAL) == {"thermal_status": 2, "temperature_millic": 43500}


@pytest.mark.parametrize("text", ["", "Can't find service: thermalservice\n", BATTERY.format(present="false")])
def test_what_a_device_does_not_tell_is_left_out(text: str) -> None:
    assert android.thermal(text) == android.battery(text) == android.described(text) == {}


def test_where_this_is_not_android_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(android, "ask", lambda *argv: pytest.fail("asked"))
    assert android.facts() == android.evidence() == {}


def test_a_program_of_android_that_hangs_or_is_missing_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(android, "ANSWER_S", 0.1)
    assert android.ask("sleep", "5") == android.ask("/system/bin/nothing") == ""
