"""An engine that answers at once: vLLM's endpoints and stream format, with behaviour chosen by the request's ``stub`` field.

Run as a script: ``python stub_engine.py --port 0 --model m``; prints its port. ``GET /stub/seen`` lists the ids it served,
``GET /stub/prompts`` the prompts of completions, ``GET /metrics`` counts them.
"""

import argparse
import asyncio
import json
import os
from collections import Counter

from aiohttp import web

SEEN: list[str] = []
PROMPTS: list[object] = []
COUNTS: Counter[str] = Counter()
"""What /metrics tells, under vLLM's names: an iteration per answer and one more per further token."""
RUNNING = [0]
"""Calls in hand."""
DELAY_S = float(os.environ.get("STUB_DELAY_S", "0"))
"""How long an answer takes where the request does not say."""


def words(request_id: str, tokens: int) -> list[str]:
    return [f"{request_id or 'word'}-{index} " for index in range(tokens)]


def count(prompt_tokens: int, generated: int) -> None:
    COUNTS["request_success_total"] += 1
    COUNTS["prompt_tokens_total"] += prompt_tokens
    COUNTS["generation_tokens_total"] += generated
    COUNTS["iteration_tokens_total_count"] += max(1, generated)


async def metrics(request: web.Request) -> web.Response:
    lines = [f'vllm:num_requests_running{{model_name="m"}} {float(RUNNING[0])}', "# TYPE vllm:iteration_tokens_total histogram"]
    lines += [f'vllm:{name}{{model_name="m"}} {float(value)}' for name, value in sorted(COUNTS.items())]
    return web.Response(text="\n".join(lines) + "\n")


async def generate(request: web.Request) -> web.StreamResponse:
    RUNNING[0] += 1
    try:
        return await answer(request)
    finally:
        RUNNING[0] -= 1


async def answer(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    stub = body.get("stub", {})
    SEEN.append(request.headers.get("x-request-id", ""))
    PROMPTS.append(body.get("prompt"))
    if stub.get("status"):
        return web.json_response({"error": {"message": "as asked", "type": "x", "code": None}}, status=stub["status"])
    tokens = body.get("max_tokens") or body.get("max_completion_tokens") or 4
    pieces = stub.get("pieces") or words(request.headers.get("x-request-id", ""), tokens)
    chat = request.path.endswith("chat/completions")
    prompt = json.dumps(body.get("messages") or body.get("prompt"))
    asked = len(body["prompt"]) if isinstance(body.get("prompt"), list) else len(prompt)
    usage = {"prompt_tokens": asked, "completion_tokens": len(pieces), "total_tokens": asked + len(pieces)}
    count(asked, len(pieces))
    head = {"id": "cmpl-1", "object": "chat.completion" if chat else "text_completion", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        await asyncio.sleep(stub.get("delay_s", DELAY_S))
        text = "".join(pieces)
        message = {"role": "assistant", "content": text}
        if stub.get("tool"):
            message["tool_calls"] = [{"id": stub["tool"], "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        choice = {"index": 0, **({"message": message} if chat else {"text": text}), "finish_reason": "stop"}
        reply = {**head, "choices": [choice]}
        return web.json_response(reply if stub.get("no_usage") else {**reply, "usage": usage})
    await asyncio.sleep(DELAY_S)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for index, piece in enumerate(pieces):
        if stub.get("die_after") == index:
            os.kill(os.getpid(), 9)
        part = {"delta": {"content": piece}} if chat else {"text": piece}
        event = {**head, "choices": [{"index": 0, **part, "finish_reason": None}]}
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        await asyncio.sleep(stub.get("delay_s", 0))
    if (body.get("stream_options") or {}).get("include_usage") and not stub.get("no_usage"):
        await response.write(b"data: " + json.dumps({**head, "choices": [], "usage": usage}).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def pool(request: web.Request) -> web.Response:
    body = await request.json()
    SEEN.append(request.headers.get("x-request-id", ""))
    await asyncio.sleep(DELAY_S)
    tokens = len(json.dumps(body.get("input") or body.get("documents") or body.get("text_2")))
    items = body.get("documents") or body.get("text_2") or body.get("input") or []
    data = [{"index": index, "embedding": [0.0], "score": 1 / (index + 1)} for index in range(len(items))]
    results = [{"index": row["index"], "relevance_score": row["score"]} for row in data]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    count(tokens, 0)
    return web.json_response({"object": "list", "data": data, "results": results, "usage": usage})


async def tokenize(request: web.Request) -> web.Response:
    body = await request.json()
    text = body.get("prompt") if "prompt" in body else json.dumps(body["messages"])
    return web.json_response({"count": len(text), "max_model_len": 4096, "tokens": []})


async def health(request: web.Request) -> web.Response:
    sick = os.environ.get("STUB_SICK")
    return web.Response(status=503 if sick and os.path.exists(sick) else 200)


async def seen(request: web.Request) -> web.Response:
    return web.json_response(SEEN)


async def prompts(request: web.Request) -> web.Response:
    return web.json_response(PROMPTS)


def make_app() -> web.Application:
    app = web.Application(client_max_size=2**26)
    for path in ("/v1/chat/completions", "/v1/completions"):
        app.router.add_post(path, generate)
    for path in ("/v1/embeddings", "/v1/score", "/v1/rerank"):
        app.router.add_post(path, pool)
    app.router.add_post("/tokenize", tokenize)
    app.router.add_get("/health", health)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/stub/seen", seen)
    app.router.add_get("/stub/prompts", prompts)
    return app


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    arguments, _ = parser.parse_known_args()
    runner = web.AppRunner(make_app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.port).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
