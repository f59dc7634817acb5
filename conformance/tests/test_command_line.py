"""What a person sees who has not read anything yet: help, completion, and mistakes."""

import subprocess

import pytest

from command import ASKED_WRONGLY

COMMANDS = ["import", "pull", "inspect", "ls", "rm", "copy", "stats"]

OPTIONS = {
    "import": [
        "--progress", "--file-name", "--checksum", "--header", "--user", "--source-ca-file", "--source-auth-file", "--platform",
        "--architecture", "--instancetype", "--preference", "--label", "--annotation", "--max-size",
        "--max-virtual-size", "--max-ratio", "--deny-local-addresses", "--idle-timeout", "--retries",
    ],
    "pull": ["--progress", "--to", "--format", "--connections", "--platform", "--force", "--base"],
    "inspect": ["--platform"],
    "ls": [],
    "rm": [],
    "copy": ["--progress"],
    "stats": [],
}  # fmt: skip

EVERYWHERE = ["--plain-http", "--ca-file", "--insecure-skip-tls-verify", "--auth-file", "--output"]

commands = pytest.mark.parametrize("command", COMMANDS)


def test_the_program_lists_its_commands(dvcr):
    text = dvcr.run("--help").out.decode()
    for command in COMMANDS:
        assert f"\n  {command} " in text


@commands
def test_help_has_every_option_and_an_example(dvcr, command):
    text = dvcr.run(command, "--help").out.decode()
    for option in OPTIONS[command] + EVERYWHERE:
        assert option in text, option
    assert f"\n  dvcr {command} " in text or f"\n    dvcr {command} " in text, text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_the_commands_and_their_options(dvcr, shell):
    script = dvcr.run("completion", shell).out.decode()
    for command in COMMANDS:
        assert command in script
    for option in ["deny-local-addresses", "connections"]:
        assert option in script


def test_bash_takes_the_completion_and_completes(dvcr):
    script = dvcr.run("completion", "bash").out
    line = b'\nCOMP_WORDS=(dvcr imp); COMP_CWORD=1; _dvcr dvcr imp dvcr; echo "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "--norc"], input=script + line, capture_output=True, timeout=60, check=True)
    assert done.stdout.split() == [b"import"], done


@commands
def test_a_command_without_its_arguments_is_asked_wrongly(dvcr, command):
    done = dvcr.run(command, code=ASKED_WRONGLY)
    assert done.out == b"" and done.errors


@commands
def test_an_option_that_is_none_is_asked_wrongly(dvcr, command):
    assert "--no-such-option" in dvcr.run(command, "--no-such-option", "a", "b", code=ASKED_WRONGLY).errors


@pytest.mark.parametrize("arguments", [["--progress", "loud"], ["--output", "yaml"]])
@commands
def test_a_value_that_an_option_cannot_have_is_asked_wrongly(dvcr, registry, command, arguments):
    if arguments[0] not in OPTIONS[command] + EVERYWHERE:
        arguments = [arguments[0]]
    reference = f"{registry.host}/a:v1"
    more = {"import": ["/dev/null", reference], "copy": [reference, reference]}.get(command, [reference])
    assert arguments[-1] in dvcr.run(command, *arguments, *more, code=ASKED_WRONGLY).errors


def test_a_closed_standard_output_is_no_panic(dvcr):
    process = dvcr.start("import", "--help")
    process.stdout.close()
    assert b"panicked" not in process.stderr.read()
    process.wait(60)
