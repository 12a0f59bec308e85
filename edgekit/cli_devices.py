"""The commands about devices: list, show, add, doctor; and the options by which every command is told where a device is."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekit import errors
from edgekit.cache import is_file
from edgekit.errors import UserError, unknown
from edgekit.terminal import print_json, print_table

DEVICES_HELP = """\
List the devices: how each is reached, whether it answers now, and what it lacks.

examples:
  edgekit devices
  edgekit devices show pi4                           every key of its profile, and where it comes from
  edgekit devices add my-pi --host pi@192.0.2.7      ask the board what it is, and keep that as a profile
  edgekit devices add my-phone --serial 0123456789
"""
DOCTOR_HELP = """\
Say what is missing and the exact command that mends it.

examples:
  edgekit doctor                                     this machine
  edgekit doctor --device pi4                        this machine and everything that device needs, tried for real
  edgekit doctor --device pi4 --host pi@192.0.2.7    the real board
"""
# option -> what it is for; --port is apart, because it is a number for SSH and a line for a serial device
PLACES = {
    "--host": (
        "[USER@]HOST[:PORT]",
        "the board behind SSH, whatever its profile says; aliases of ~/.ssh/config will do",
    ),
    "--serial": ("ID", "which of the Android devices of `adb devices`"),
    "--port": ("TTY", "the serial line, or socket://HOST:PORT; with --host its port"),
    "--baud": ("N", "of the serial line (default: the profile's, else 115200)"),
    "--login": ("USER", "who to log in as on a serial line (default: the profile's, else root)"),
}
ACTIONS = ("list", "show", "add")


def add_connection(parser: argparse.ArgumentParser) -> None:
    """The options that say where a device is."""
    for option, (metavar, text) in PLACES.items():
        parser.add_argument(option, metavar=metavar, help=text)


def asked_for(device: str | None) -> tuple[str | None, ...]:
    """The devices of --device A,B, once each; a file may have a comma in its name."""
    if device is None or (Path(device).suffix == ".toml" and is_file(Path(device))):
        return (device,)
    return tuple(dict.fromkeys(part.strip() for part in device.split(",") if part.strip())) or (device,)


def connection(args: argparse.Namespace) -> dict[str, Any]:
    """What those options say, as keys of [connection]. Raises UserError."""
    found: dict[str, Any] = {key: value for key in ("host", "serial", "login") if (value := getattr(args, key))}
    if args.port and args.port.isdecimal():
        if not args.host:
            raise UserError(
                f"--port {args.port} is a number, and goes with --host", "a serial line is a path: --port /dev/ttyUSB0"
            )
        found["port"] = int(args.port)
    elif args.port:
        found["tty"] = args.port
    if args.baud:
        if not args.baud.isdecimal():
            raise UserError(f"--baud {args.baud} is not a whole number", "the usual one is 115200")
        found["baud"] = int(args.baud)
    return found


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """`devices` and `doctor` in the command table."""
    devices = command("devices", "list, show and add devices", DEVICES_HELP, run_devices)
    devices.add_argument("action", nargs="?", metavar="ACTION", help="list (default), show, add")
    devices.add_argument("name", nargs="?", metavar="NAME", help="of the device to show or to add")
    add_connection(devices)
    devices.add_argument("--json", action="store_true", help="the machine form on stdout")
    doctor = command("doctor", "say what is missing and how to mend it", DOCTOR_HELP, run_doctor)
    doctor.add_argument("--device", "-d", metavar="NAME", help="also try this device for real")
    add_connection(doctor)
    doctor.add_argument("--json", action="store_true", help="the machine form on stdout")


def run_devices(args: argparse.Namespace) -> int:
    """edgekit devices"""
    action = args.action or "list"
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS)
    if action == "list":
        if args.name or connection(args):
            raise UserError("a list takes neither a name nor a place", "edgekit devices show NAME")
        return list_devices(args)
    if not args.name:
        raise UserError(f"nobody said which device to {action}", f"edgekit devices {action} NAME")
    return show_device(args) if action == "show" else add_device(args)


def list_devices(args: argparse.Namespace) -> int:
    """edgekit devices"""
    from edgekit import config, devices

    found = [config.device(name) for name in config.device_names()]
    looks = devices.look_at_all(found)
    if args.json:
        print_json([devices.form(device, look) for device, look in zip(found, looks, strict=True)])
        return errors.EXIT_OK
    rows = [
        (device.name, devices.way(device), device.arch, look.words, device.description)
        for device, look in zip(found, looks, strict=True)
    ]
    print_table(("device", "reached by", "arch", "now", "what it is"), rows)
    return errors.EXIT_OK


def show_device(args: argparse.Namespace) -> int:
    """edgekit devices show NAME"""
    from edgekit import config, devices

    device = config.device(args.name, connection(args))
    look = devices.look(device)
    if args.json:
        print_json(devices.form(device, look))
        return errors.EXIT_OK
    for line in devices.shown(device, look):
        print(line)
    return errors.EXIT_OK


def add_device(args: argparse.Namespace) -> int:
    """edgekit devices add NAME"""
    from edgekit import devices
    from edgekit.progress import Progress

    with Progress(quiet=args.json) as progress:
        device, place = devices.add(args.name, connection(args), progress.say)
    if args.json:
        print_json(devices.form(device, devices.look(device)))
        return errors.EXIT_OK
    for line in devices.shown(device, None):
        print(line)
    print(f"written to {place}; try it: edgekit doctor --device {device.name}")
    return errors.EXIT_OK


def run_doctor(args: argparse.Namespace) -> int:
    """edgekit doctor"""
    from edgekit import doctor
    from edgekit.progress import Progress

    where = connection(args)
    if where and not args.device:
        raise UserError("nobody said what is there", "name its profile: --device pi4")
    findings = []
    with Progress(quiet=args.json) as progress:
        for finding in doctor.check(args.device, progress.say, where):
            findings.append(finding)
            progress.say(f"checked {finding.what}")
    bad = [finding for finding in findings if not finding.ok]
    if args.json:
        print_json([vars(finding) for finding in findings])
        return errors.EXIT_DEVICE if bad else errors.EXIT_OK
    for finding in findings:
        print(f"{'ok     ' if finding.ok else 'MISSING'}  {finding.what}: {finding.seen}")
        if finding.mend and not finding.ok:
            print(f"         mend it: {finding.mend}")
        elif finding.advice:
            print(f"         better: {finding.advice}")
    subject = args.device or "this machine"
    print(f"{subject}: ready" if not bad else f"{subject}: not ready, {len(bad)} to mend; first: {bad[0].mend}")
    return errors.EXIT_DEVICE if bad else errors.EXIT_OK
