"""Puts what LLDB launches into a mirrord session: a launch's initCommands call begin."""

import os
import subprocess

import lldb


def begin(mirrord, session):
    """Has LLDB launch programs with the environment that the session gives them, under a served lldb-server."""
    command = [mirrord, "exec", "--session", session, "--", "env", "-0"]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.decode(errors="replace").strip())
    for pair in run.stdout.decode(errors="surrogateescape").split("\0"):
        name, given, value = pair.partition("=")
        if given and name != "MIRRORD_LAUNCHER":  # of that run alone
            os.environ[name] = value
    tools = lldb.SBHostOS.GetLLDBPath(lldb.ePathTypeSupportExecutableDir)
    os.environ["MIRRORD_BINARY"] = mirrord
    os.environ["MIRRORD_SESSION"] = session
    os.environ["MIRRORD_LLDB_SERVER"] = os.path.join(str(tools), "lldb-server")
    os.environ["LLDB_DEBUGSERVER_PATH"] = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lldb-server")
