"""What `helm test` asks of a gateway: ready, every base model listed and, if told, one answer of each.

Environment: OSTLER_URL, OSTLER_API_KEY, SMOKE_MODELS (a JSON list of names), SMOKE_CHAT (true or false) and
SMOKE_TIMEOUT_S. It needs the standard library alone. The exit code is 0 if all is well, else 1 with a line that says
what is not.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

REQUEST_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 10.0


def ask(path, body=None, timeout_s=REQUEST_TIMEOUT_S):
    """The answer's status and its JSON; status 0 if nobody answers, or the text of what is no JSON, as of a proxy."""
    headers = {"Authorization": f"Bearer {os.environ['OSTLER_API_KEY']}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["OSTLER_URL"] + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, read(answer)
    except urllib.error.HTTPError as error:
        return error.code, read(error)
    except OSError as error:
        return 0, {"error": str(error)}


def read(answer):
    """An answer's JSON; what is none is told as the beginning of its text."""
    text = answer.read().decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        return {"error": text[:200]}


def wait_until_ready(timeout_s):
    """Ask until the gateway is ready; ends the process if it does not become so."""
    end = time.monotonic() + timeout_s
    while (found := ask("/readyz", timeout_s=READY_TIMEOUT_S))[0] != 200:
        if time.monotonic() > end:
            sys.exit(f"the gateway is not ready: {json.dumps(found[1])}")
        time.sleep(1)


def check_models(models):
    """Every base model is listed; ends the process if one is not."""
    status, listed = ask("/v1/models")
    if status != 200:
        sys.exit(f"the list of models was answered with {status}: {json.dumps(listed)}")
    if missing := set(models) - {model["id"] for model in listed.get("data", [])}:
        sys.exit(f"not listed: {', '.join(sorted(missing))}")


def check_answer(model):
    """The model answers; ends the process if it does not."""
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": "Say yes."}]}
    status, answer = ask("/v1/chat/completions", body)
    if status != 200 or not answer.get("choices"):
        sys.exit(f"{model} did not answer ({status}): {json.dumps(answer)}")


def main():
    """All checks, one after another."""
    models = json.loads(os.environ["SMOKE_MODELS"])
    wait_until_ready(float(os.environ["SMOKE_TIMEOUT_S"]))
    check_models(models)
    if os.environ["SMOKE_CHAT"] == "true":
        for model in models:
            check_answer(model)
    print(f"the gateway is ready and lists {len(models)} base models")


if __name__ == "__main__":
    main()
