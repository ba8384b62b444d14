"""What is hidden in a text, in arguments and in JSON, and what stays readable."""

from __future__ import annotations

import base64
import json

import pytest

from vllm_rightsizer.doctor.confidential_texts import without_secrets
from vllm_rightsizer.doctor.scrubbing import scrubbed, scrubbed_log

S = "hunter2X"
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{S}\n{S}==\n-----END RSA PRIVATE KEY-----"
PUBLIC_PEM = "-----BEGIN CERTIFICATE-----\nMIIEabcd\n-----END CERTIFICATE-----"
LOGIN = base64.b64encode(json.dumps({"auths": {"registry.example.com": {"auth": S}}}).encode()).decode()
PRETTY_LOGIN = base64.b64encode(
    json.dumps({"auths": {"registry.example.com": {"auth": S}}}, indent=2).encode()
).decode()


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        # as configurations and programs write it
        f"api_key: {S}",
        f"password: {S}",
        f"  db.password : {S}",
        f"password = {S}",
        f"password: correct horse {S}",
        f"- token: {S}",
        f"token: |\n  {S}\n  {S}\nnext: 1",
        f"password:\n  {S}\nnext: 1",
        f"api_keys:\n- a\n- {S}\nnext: 1",
        f"api_keys: [a, '{S}']",
        f"headers:\n  X-Team: {S}\nnext: 1",
        f'{{"password": "{S}"}}',
        f'{{"password":"{S}","rank":3}}',
        f'{{"password": "a\\"{S}"}}',
        f'{{"api_keys": ["a", "b]", "{S}"]}}',
        f'{{"credentials": {{"a": {{"b": 1}}, "c": "{S}"}}, "rank": 3}}',
        f'{{"password": "{S}", "password": null}}',
        f'said {{\\"password\\": \\"{S}\\", \\"rank\\": 3}}',
        f"non-default args: {{'api_key': ['a', '{S}'], 'port': 1}}",
        f"{{'api_keys': ['a',\n  '{S}'],\n 'port': 1}}",
        f"Namespace(api_key='{S}', port=8000)",
        f"EngineArgs(model='x', hf_token='{S}', seed=0)",
        f"[('password', 1), b'token={S}']",
        f"config['password'] = '{S}'",
        f"level=info token={S} msg=ok",
        f'level=info token="a {S}" msg=ok',
        f"the api_key => {S}",
        f"password := {S}",
        f"PASSWD={S}",
        f"PGPASSWORD={S} psql",
        f"MYSQL_PWD={S} mysql",
        f"dbPass={S}",
        f"clientSecret: {S}",
        f"APIKey: {S}",
        f"apikey={S}",
        f"HF_TOKEN_READ={S}",
        f"AWS_ACCESS_KEY_ID={S}",
        f"AZURE_STORAGE_SAS={S}",
        f"AccountName=a;AccountKey={S};EndpointSuffix=x",
        f"{{'name': 'HF_TOKEN', 'value': '{S}', 'value_from': None}}",
        f"env:\n- name: HF_TOKEN\n  value: {S}\n",
        f"//registry.example.com/:_authToken={S}",
        f"x={{'cookie': 'a=b; c={S}'}}",
        # as people write it
        f"token is {S}",
        f"the password is '{S}'",
        f"The API key for chat is {S}.",
        f"Incorrect API key provided: {S}. You can find it",
        f"invalid password {S} for user me",
        f'API key "{S}" is not known',
        f"password set to {S}",
        # headers
        f"Authorization: Bearer {S}",
        f"Authorization: Basic {S}",
        f"'Authorization': 'Bearer {S}'",
        f"X-Api-Key: {S}",
        f"Cookie: a=b; c={S}",
        f"Proxy-Authorization: Custom a {S}",
        f"got bearer {S}",
        # scripts
        f"vllm serve m --api-key {S} --port 1",
        f"vllm serve m --api-key a {S} --port 1",
        f"vllm serve m --api-key \\\n  {S} --port 1",
        f"vllm serve m --api_key={S}",
        f"vllm serve m --api-k {S}",
        f"vllm serve m --hf-t={S}",
        f"vllm serve m --kv-transfer-config.extra.redis_password {S}",
        f"vllm serve --api-key 'a'\\''{S}'",
        f"vllm serve --api-key \"a\"'{S}' --port 1",
        f'vllm serve --api-key a"{S}"',
        f"bash -c 'vllm serve --api-key \"{S}\"' && echo",
        f"['vllm', 'serve', '--api-key', '{S}', '--port', '1']",
        f"curl -u me:{S} https://host/x",
        f"curl -H 'X-Team: {S}' https://host/x",
        f"docker login -u me -p {S} registry.example.com",
        f"sshpass -p {S} ssh host",
        f"redis-cli -h host -a {S} ping",
        f"mysql -h host -p{S} db",
        f"machine host login me password {S}",
        f"printf '{PEM}' > key",
        f"said ['--api-key', 'a', '{S}', '--port', '1']",
        f'said {{"m": "[\\"--api-key\\", \\"a\\", \\"{S}\\"]"}}',
        f"export TOKEN='{S}'; exec vllm",
        # addresses
        f"https://me:{S}@host/x",
        f"https://{S}@host/x",
        f"redis://:a/{S}@host:6379/0",
        f"https://me:a@{S}@host/x",
        f"http://a,http://me:{S}@b",
        f"https://b.s3.amazonaws.com/k?X-Amz-Credential=a%2F{S}&X-Amz-Signature={S}&X-Amz-Expires=60",
        f"https://a.blob.core.windows.net/c?sv=2022&sig={S}",
        f"https://storage.googleapis.com/b?GoogleAccessId=x&Signature={S}",
        f"https://cdn.example.com/m?Policy={S}&Key-Pair-Id={S}",
        f"GET /callback?code={S}&limit=5 200",
        f"https://host/#access_token={S}",
        f"https://hooks.slack.com/services/T0/B0/{S}",
        f"postgres me:{S}@db.example.com:5432",
        # by their looks
        f"hf_abcdefghij{S}",
        f"sk-proj-abcdefghij{S}",
        f"ghp_abcdefghij{S}",
        f"github_pat_abcdefghij{S}",
        f"glpat-abcdefghij{S}",
        f"nvapi-abcdefghij{S}",
        f"hvs.abcdefghij{S}",
        f"xoxb-1234567890-{S}",
        f"line\\nsk-abcdefghij{S}",
        "AKIAIOSFODNN7EXAMPLE",
        f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{S}",
        LOGIN,
        PRETTY_LOGIN,
        in_base64(PEM),
        in_base64(f"{PUBLIC_PEM}\n{PEM}"),
        PEM,
        PEM.replace("\n", "\\n"),
        f"{PEM[:60]}\n{S}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{S}\n-----END OPENSSH PRIVATE KEY-----",
        f"{S}{HEX}\n{S}==\n-----END PRIVATE KEY-----\nnext",
        f"ERROR {S}{HEX}\n{S}==\n-----END PRIVATE KEY-----\nnext",
        # in JSON and in what Python prints, in a text
        f'said {{"m": "{{\\"password\\": \\"a\\\\\\"{S}\\"}}"}}',
        f'said {{"m": "password:\\n  {S}\\nnext"}}',
        f'said {{"m": "{{\\"m\\": \\"token: |\\\\n  {S}\\\\n  {S}\\"}}"}}',
        f'said {{"m": "API key \\"{S}\\" is not known"}}',
        f"said {{'m': 'env:\\n- name: HF_TOKEN\\n  value: {S}'}}",
        f'said {{"m": "vllm serve --api-key \\"a\\"\'{S}\'"}}',
        f'curl -H "Cookie: a=b; c={S}" https://host/x',
        f'Cookie: a="b"; c={S}',
        f"log: password: correct horse {S}",
        # names and values with no sign between them
        f"aws configure set aws_secret_access_key {S}",
        f"CONFIG SET requirepass {S}",
        f"requirepass {S}",
        f"redis-server --masterauth {S}",
        f"set -x HF_TOKEN {S}",
        f"ENV HF_TOKEN {S}",
        f"os.environ.setdefault('HF_TOKEN', '{S}')",
        f'os.environ.setdefault(\\"HF_TOKEN\\", \\"{S}\\")',
        f"<password>{S}</password>",
        f'<a:Password type="plain">a {S}</a:Password>',
        f"Server=db;Password=p {S};Port=5",
        f"server=db;password=p {S};port=5",
        # programs
        f"curl -su me:{S} https://host/x",
        f"curl -s -b session={S} https://host/x",
        f"curl \\\n  -b 'a=b; c={S}' https://host/x",
        f"redis-cli -p 6379 -a {S} ping",
        f'said ["mysqldump", "-p{S}"]',
        f"said ['sshpass', '-p', '{S}', 'ssh']",
    ],
)
def test_hidden(text: str) -> None:
    left = without_secrets(text)
    assert S not in left
    assert "(left out)" in left
    assert without_secrets(left) == left
    for encoded in (LOGIN, PRETTY_LOGIN, in_base64(PEM), "AKIAIOSFODNN7EXAMPLE"):
        assert encoded not in left


TRACEBACK = """\
Traceback (most recent call last):
  File "/usr/lib/python3.12/site-packages/vllm/entrypoints/openai/api_server.py", line 92, in build
    token = self.token_of(request)
  File "/usr/lib/python3.12/json/decoder.py", line 355, in raw_decode
    for key, value in sorted(items, key=lambda item: item[0]):
  File "/x.py", line 3, in f
    return client.get(url, headers=headers, token=self.token)
KeyError: 'model.layers.0.self_attn.k_proj.weight'
ValueError: Expecting value: line 1 column 1 (char 0)
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore_0': 1}"""


@pytest.mark.parametrize(
    "text",
    [
        TRACEBACK,
        "max_tokens: 512",
        "max_tokens=512 num_tokens=5 prompt_tokens: 7",
        '{"max_tokens": 512, "token_ids": [1, 2], "tokens": 7}',
        "this model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the messages)",
        "--tokenizer meta-llama/Llama-3 --tokenizer-mode auto --skip-tokenizer-init",
        "--max-num-batched-tokens=8192 --long-prefill-token-threshold 4",
        "--max-num-batched-tokens 8192 --max-num-seqs 5",
        "--ssl-keyfile /certs/tls.key --allow-credentials --port 1",
        "--prometheus-token-file=/var/run/token --tls-secret=vllm-rightsizer-webhook-tls",
        "--kv-cache-memory-bytes=1 --gpu-memory-utilization 0.9",
        "--api-key $(VLLM_API_KEY) --port 1",
        "HF_TOKEN=${HF_TOKEN} vllm serve",
        "api_key=None, hf_token=None, password=''",
        "eos_token: </s>, pad_token_id: 5",
        "Avg prompt throughput: 512.0 tokens/s, Avg generation throughput: 7.5 tokens/s, GPU KV cache usage: 2.5%",
        "GPU KV cache size: 128,000 tokens",
        'vllm:prompt_tokens_total{engine="0",model_name="meta-llama/Llama-3"} 5.0',
        'vllm:request_prompt_tokens_bucket{le="1.0"} 5.0',
        f"image vllm/vllm-openai:v0.11.0@sha256:{HEX}",
        f"https://registry/vllm@sha256:{HEX}",
        f"sha256:{HEX} {HEX} pod 0b7bc5a8-1111-4222-8333-944455556666",
        "the Secret webhook-tls is gone: https://host/x",
        'secrets "webhook-tls" is forbidden: User "system:serviceaccount:a:b" cannot get resource "secrets"',
        "couldn't find key HF_TOKEN in Secret chat/hf",
        'MountVolume.SetUp failed for volume "x" : secret "hf-token" not found',
        "the token is expired",
        "token: invalid signature",
        "password authentication failed for user me",
        "missing bearer token",
        "failed to sync secret cache: timed out waiting for the condition",
        "Get https://10.96.0.1:443/api/v1/pods?limit=500&resourceVersion=0&watch=true: dial tcp 10.96.0.1:443: refused",
        "GET /api/v1/query?query=sum&time=5 HTTP/1.1",
        "http://vllm:8000/v1 and me@example.com at 12:00:05",
        "monkey: 5, keyboard: de, author: me, authority: webhook",
        "key_cache shape: torch.Size([2, 3]), num_key_value_heads: 8",
        "PWD=/workspace",
        '--compilation-config {"pass_config": {"fuse_norm_quant": true}}',
        "VLLM_MAX_TOKENS_PER_EXPERT_FP4_MOE=163840 suffix_decoding_min_token_prob=0.1",
        "cut -d: -f1 | python3 -u serve.py",
        r"C:\new and \\n and \\\n and \\\\n and \n",
        PUBLIC_PEM,
        in_base64(PUBLIC_PEM),
        "spec.volumes[0].secret.secretName: Required value",
        "curl -u http://host:8000",
        "time to first token 3.5ms, 12 tokens per second: 5",
        'lookup_tokens=3.5e6 max_tokens: 1_000 and {"lookup_tokens": 1.5e+16}',
        "tokens: [1, 2, 3]",
        'failed to fetch token: serviceaccounts "vllm" not found',
        'failed to fetch anonymous token: Get "https://registry.example.com/token?scope=repository:a/b:pull": EOF',
        "may require authorization: server message: insufficient_scope: authorization failed",
        "HEAD https://registry.example.com/v2/a/manifests/1?ns=registry.example.com: 401 Unauthorized",
        "https://registry.example.com/token?scope=repository:a/b:pull&service=registry.example.com: 401",
        "please set HF_TOKEN before vllm starts; set HF_TOKEN environment variable, or set HF_TOKEN to a token",
        "<token></token> <model>m</model> and a < b",
        "redis-cli -p 6379 ping",
        "password=$(PASSWORD) vllm serve; echo",
    ],
)
def test_kept(text: str) -> None:
    assert without_secrets(text) == text


def test_what_stands_around_a_secret_is_kept() -> None:
    for text, left in {
        f"--api-key {S} --port 1": "--api-key (left out) --port 1",
        f"HF_TOKEN='a {S}' vllm serve": "HF_TOKEN=(left out) vllm serve",
        f"POST https://me:{S}@host/x: 403": "POST https://(left out)@host/x: 403",
        f"Authorization: Bearer {S}": "Authorization: Bearer (left out)",
        f"https://host/x?sig={S}&limit=5 200": "https://host/x?sig=(left out)&limit=5 200",
        f"Namespace(api_key='{S}', port=8000)": "Namespace(api_key=(left out), port=8000)",
        f"{{'api_key': ['{S}'], 'port': 1}}": "{'api_key': (left out), 'port': 1}",
        f"token: |\n  {S}\nnext: 1": "token: (left out)\nnext: 1",
        f"The API key is {S}.": "The API key is (left out).",
        f"curl -H 'X-Team: {S}' https://host/x": "curl -H 'X-Team: (left out)' https://host/x",
        f"a\n{PEM}\nb": "a\n(left out)\nb",
        f"Server=db;Password=p {S};Port=5": "Server=db;Password=(left out);Port=5",
        f"<password>{S}</password>": "<password>(left out)</password>",
        f"https://host/x?sig={S}: 401": "https://host/x?sig=(left out): 401",
        f"ENV HF_TOKEN {S} # it": "ENV HF_TOKEN (left out) # it",
        f'said ["mysqldump", "-p{S}"]': 'said ["mysqldump", "-p(left out)"]',
    }.items():
        assert without_secrets(text) == left


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["--api-key", S, "--port", "1"], ["--api-key", "(left out)", "--port", "1"]),
        (["--api-key", "a", S, "--port", "1"], ["--api-key", "(left out)", "(left out)", "--port", "1"]),
        ([f"--api-key=-{S}"], ["--api-key=(left out)"]),
        (["--hf-tok", S, "model"], ["--hf-tok", "(left out)", "model"]),
        (["--api-key=$(KEY)", "--hf-token", "$(T)"], ["--api-key=$(KEY)", "--hf-token", "$(T)"]),
        ([f'--hf-overrides={{"a": {{"token": "{S}"}}}}'], ['--hf-overrides={"a": {"token": "(left out)"}}']),
        (["--additional-config", f'{{"x": 1, "pw": "{S}"}}'], ["--additional-config", '{"x": 1, "pw": "(left out)"}']),
        (['--hf-overrides={"a":1}'], ['--hf-overrides={"a":1}']),
        ([f"--x.api_keys+={S}", "--y.token+", S], ["--x.api_keys+=(left out)", "--y.token+", "(left out)"]),
        ([f"--header=Authorization: Bearer {S}"], ["--header=(left out)"]),
        (["sh", "-c", f"vllm serve --api-key {S}"], ["sh", "-c", "vllm serve --api-key (left out)"]),
        (["curl", "-u", f"me:{S}", "-H", f"X-Team: {S}"], ["curl", "-u", "(left out)", "-H", "(left out)"]),
        (["/bin/redis-cli", "-a", S, "ping"], ["/bin/redis-cli", "-a", "(left out)", "ping"]),
        (["--hf-token", f"-{S}", "-tp", "2"], ["--hf-token", "(left out)", "-tp", "2"]),
        (["env", f"HF_TOKEN={S}", "vllm"], ["env", "HF_TOKEN=(left out)", "vllm"]),
        (["python3", "-u", "serve.py", "-p", "8"], ["python3", "-u", "serve.py", "-p", "8"]),
        (["--ssl-keyfile", "/k", "--tokenizer", "t"], ["--ssl-keyfile", "/k", "--tokenizer", "t"]),
        (["--allow-credentials", "model"], ["--allow-credentials", "model"]),
        (["mysqldump", f"-p{S}", "db"], ["mysqldump", "-p(left out)", "db"]),
        (["sshpass", f"-p{S}", "ssh", "-p22"], ["sshpass", "-p(left out)", "ssh", "-p(left out)"]),
        (["timeout", "5", "sshpass", "-p", S, "ssh"], ["timeout", "5", "sshpass", "-p", "(left out)", "ssh"]),
        (["redis-cli", "-p", "6379", "-a", S], ["redis-cli", "-p", "6379", "-a", "(left out)"]),
        (["redis-server", "--masterauth", S], ["redis-server", "--masterauth", "(left out)"]),
        (["curl", "-su", f"me:{S}", f"-ba={S}"], ["curl", "-su", "(left out)", "-b(left out)"]),
        (["curl", "-b", f"a={S}", "-b", "jar"], ["curl", "-b", "(left out)", "-b", "jar"]),
        (["aws", "configure", "set", "a_secret_key", S], ["aws", "configure", "set", "a_secret_key", "(left out)"]),
        (["redis-cli", "CONFIG", "SET", "requirepass", S], ["redis-cli", "CONFIG", "SET", "requirepass", "(left out)"]),
        (["set", "-x", "HF_TOKEN", S], ["set", "-x", "HF_TOKEN", "(left out)"]),
        (["HF_TOKEN", "NAME_OF_OTHER"], ["HF_TOKEN", "NAME_OF_OTHER"]),
    ],
)
def test_arguments(given: list[str], left: list[str]) -> None:
    assert scrubbed({"args": given}) == {"args": left}
    # Wherever else a list of arguments stands, as in JSON of an annotation.
    assert json.loads(scrubbed(json.dumps(given))) == left


def test_log() -> None:
    time = "2026-11-21T12:00:00.123456789Z "
    record = {"level": "info", "message": f'POST {{"password": "{S}"}} and api_key: {S}', "token": S, "größe": 5}
    plain = json.dumps({"level": "info", "message": "max_tokens: 5", "größe": 5})
    lines = [
        f"{time}{json.dumps(record)}",
        f"{time}{plain}",
        f"{time}Traceback",
        *(f"{time}{x}" for x in PEM.split("\n")),
    ]
    left = scrubbed_log([*lines, f"{time}password:", f"{time}  {S}", f"{time}end"])
    assert S not in left
    first, second, *others = left.splitlines()
    assert json.loads(first.removeprefix(time))["größe"] == 5
    assert second == f"{time}{plain}"
    assert others == [f"{time}Traceback", f"{time}(left out)", f"{time}password:(left out)", f"{time}end"]


LONG = 60_000
"""Where each letter is read from each other one, this takes half a minute; as it is, a tenth of a second."""


@pytest.mark.timeout(15)
@pytest.mark.parametrize(
    ("before", "piece"),
    [
        ("", "a"),
        ("", "\\"),
        ("token=", "\\"),
        ("password: x ", "\\"),
        ('token: {"' + "\\" * 3 * LONG, "\\"),
        ("", "\t \n"),
        ("", "://a:b"),
        ("", "-----BEGIN "),
        ("", "eyJ-"),
        ("", "key: {"),
        ("", "key:\n "),
        ("", 'key=\\"'),
        ("", "cookie: is "),
        ("set ", 'a_key b"'),
        ("", "<key>"),
        ("", "Password=a "),
        ("mysql ", "-p'"),
    ],
)
def test_long_hostile_texts_end(before: str, piece: str) -> None:
    text = before + piece * (LONG // len(piece))
    assert without_secrets(f"{text}\npassword: {S}").endswith(("\npassword: (left out)", "(left out)"))
