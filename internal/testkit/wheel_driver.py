"""Drives the reference system's wheel by lines of JSON.

Standard input: one request a line, {"id": 1, "op": ..., ...}. Standard output:
one answer a line, {"id": 1, "result": {...}} or {"id": 1, "error": "text"}, in
any order, and {"event": {...}} for what the wheel signals. The end of standard
input ends the process. Operations:

create  settings, [offer]  a tube that listens (no offer) or dials (offer given)
answer  tube, sdp          the answer for a tube that listens
status  tube               the tube's state
close   tube               ends a tube
log     level              Python logging level of the wheel (20 = info)
"""

import json
import logging
import os
import sys
import threading

import keeper_pam_webrtc_rs as keeper

registry = keeper.PyTubeRegistry()
printing = threading.Lock()


def say(message):
    with printing:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def create(request):
    # No trickle: the description then holds all candidates. TEST_MODE stands for
    # "there is no backend": nothing is reported and no credentials are fetched.
    made = registry.create_tube(
        request["conversation"],
        request["settings"],
        False,
        "any",
        "",
        "ms16.5.0",
        "TEST_MODE_KSM_CONFIG",
        request.get("offer"),
        lambda signal: say({"event": signal}),
    )
    return {
        "tube": made["tube_id"],
        "sdp": made.get("answer") or made.get("offer") or "",
        "listen": made.get("actual_local_listen_addr") or "",
    }


def answer(request):
    registry.set_remote_description(request["tube"], request["sdp"], True)
    return {}


def status(request):
    return {"status": registry.get_tube_status(request["tube"])}


def close(request):
    registry.close_tube(request["tube"])
    return {}


def log(request):
    keeper.initialize_logger("wheel", request["level"] <= 10, request["level"])
    return {}


operations = {f.__name__: f for f in (create, answer, status, close, log)}


def serve(request):
    try:
        say({"id": request["id"], "result": operations[request["op"]](request)})
    except Exception as problem:  # whatever the wheel raises belongs to this request
        say({"id": request["id"], "error": f"{type(problem).__name__}: {problem}"})


def main():
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG)
    for line in sys.stdin:
        # A thread for each: a slow create must not hold up a status.
        threading.Thread(target=serve, args=(json.loads(line),), daemon=True).start()
    sys.stderr.flush()
    os._exit(0)  # the wheel's own threads would keep the interpreter


main()
