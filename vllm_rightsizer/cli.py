"""The command line. Each command brings in what it needs by itself, so that `--help` stays quick."""

from __future__ import annotations

import os
import sys
from decimal import ROUND_CEILING, Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from recommender.api.scopes import Scope
from vllm_plugin.names import DEFAULT_PORT, VERSION
from vllm_rightsizer import prometheus_options
from vllm_rightsizer.doctor.options import Bundle, Diagnosis, DiagnosisOutput, Home
from vllm_rightsizer.errors import UsageError, UserError, require_folder, require_kubeconfig, require_url
from vllm_rightsizer.list_command import list_workloads
from vllm_rightsizer.output import write_out
from vllm_rightsizer.reading_commands import explain, plan, what_if
from vllm_rightsizer.reading_options import (
    Color,
    ColorOption,
    Context,
    OpenCostUrl,
    OwnKubeconfig,
    PriceFile,
    ScopeOfPods,
)

app = typer.Typer(
    name="vllm-rightsizer",
    help="Measures what each vLLM pod really needs of its GPU, and starts the next pod with exactly that.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Injection(StrEnum):
    """How the plugin comes into a pod."""

    CONFIG_MAP = "config-map"
    INIT_CONTAINER = "init-container"
    IMAGE_VOLUME = "image-volume"
    NONE = "none"


class ManifestOutput(StrEnum):
    DIFF = "diff"
    YAML = "yaml"


Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Kubeconfig = Annotated[
    Path | None, typer.Option(help="How the API server is reached; without it, by the pod's service account.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vllm-rightsizer {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What is said before a command."""


@app.command()
def webhook(
    objects: Annotated[
        Path | None, typer.Option(help="Folder in which the objects lie, where there is no API server.")
    ] = None,
    tls_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the certificates. With --objects they are made there; in a cluster cert-manager fills it, "
            "and without it they are kept in a Secret."
        ),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8443,
    injection: Annotated[Injection, typer.Option(help="How the plugin comes into a pod.")] = Injection.CONFIG_MAP,
    injector_image: Annotated[str | None, typer.Option(help="Image that carries the plugin's wheel.")] = None,
    init_cpu: Annotated[str, typer.Option(help="CPU that the init container asks for.")] = "100m",
    init_memory: Annotated[str, typer.Option(help="Memory that the init container asks for.")] = "64Mi",
    plugin_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the plugin's metrics in the pods.")
    ] = DEFAULT_PORT,
    kubeconfig: Kubeconfig = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Of the Service and the Secret; by default the pod's own.")
    ] = None,
    service: Annotated[str, typer.Option(help="Service by which the API server calls.")] = "vllm-rightsizer-webhook",
    configuration: Annotated[str, typer.Option(help="Name of the MutatingWebhookConfiguration.")] = "vllm-rightsizer",
    tls_secret: Annotated[str, typer.Option(help="Secret of the certificates.")] = "vllm-rightsizer-webhook-tls",
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="For so long reviews are still answered after SIGTERM, in a cluster.")
    ] = 10.0,
) -> None:
    """Run the admission webhook, which starts vLLM pods with what was recommended."""
    from vllm_rightsizer.servers import own_namespace, run_webhook

    run_webhook(
        {"objects": objects, "tls_dir": tls_dir, "host": host, "port": port},
        {
            "way": injection.value,
            "injector_image": injector_image,
            "plugin_port": plugin_port,
            "init_cpu": init_cpu,
            "init_memory": init_memory,
        },
        {
            "kubeconfig": kubeconfig,
            "namespace": namespace or own_namespace(),
            "service": service,
            "configuration": configuration,
            "tls_secret": tls_secret,
            "drain_seconds": drain_seconds,
        },
    )


@app.command()
def recommender(
    history: Annotated[Path, typer.Option(help="File in which the measurements are kept.")],
    objects: Annotated[
        Path | None, typer.Option(help="Folder in which the objects lie, where there is no API server.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 9416,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    prices: PriceFile = None,
    opencost: OpenCostUrl = None,
    api: Annotated[
        bool, typer.Option("--api", help="Answer the HTTP API, read-only and to whoever reaches the port.")
    ] = False,
    scope: ScopeOfPods = Scope.OPT_IN,
    leader_elect: Annotated[
        bool,
        typer.Option(
            "--leader-elect/--no-leader-elect", help="One of several on an API server works, the others stand by."
        ),
    ] = True,
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            help="Of our servers: it has the Lease, and is not measured; by default the pod's own.",
        ),
    ] = None,
    plugin_maps: Annotated[
        bool, typer.Option("--plugin-maps/--no-plugin-maps", help="Keep the plugin's ConfigMap in namespaces in scope.")
    ] = True,
    gpu_claims: Annotated[
        bool, typer.Option("--gpu-claims/--no-gpu-claims", help="Keep ResourceClaimTemplates for the emitter dra.")
    ] = True,
    prometheus: prometheus_options.Url = None,
    prometheus_token_file: prometheus_options.TokenFile = None,
    prometheus_headers_file: prometheus_options.HeadersFile = None,
    prometheus_ca_file: prometheus_options.CaFile = None,
    prometheus_header: prometheus_options.Headers = None,
    prometheus_matcher: prometheus_options.Matchers = None,
    prometheus_recommender_matcher: prometheus_options.RecommenderMatchers = None,
    prometheus_namespace_label: prometheus_options.NamespaceLabel = "namespace",
    prometheus_pod_label: prometheus_options.PodLabel = "pod",
    prometheus_container_label: prometheus_options.ContainerLabel = "container",
) -> None:
    """Run the recommender, which measures vLLM pods and says what they need."""
    from vllm_rightsizer.servers import own_namespace, run_recommender

    require_kubeconfig(kubeconfig, context)
    require_url(opencost, "--opencost")
    run_recommender(
        objects,
        history,
        host,
        port,
        kubeconfig=kubeconfig,
        context=context,
        prices=prices,
        opencost=opencost,
        api=api,
        scope=scope,
        leader_elect=leader_elect,
        plugin_maps=plugin_maps,
        gpu_claims=gpu_claims,
        namespace=namespace or own_namespace(),
        prometheus=prometheus_options.prometheus_settings(
            prometheus,
            prometheus_token_file,
            prometheus_headers_file,
            prometheus_ca_file,
            prometheus_header,
            prometheus_matcher,
            prometheus_recommender_matcher,
            (prometheus_namespace_label, prometheus_pod_label, prometheus_container_label),
        ),
    )


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results and for everything the demo writes.")] = Path(
        "build"
    ),
    seed: Annotated[int, typer.Option(help="Another seed is another sequence of requests.")] = 1,
) -> None:
    """Show the whole loop on a real vLLM on this machine: measure, recommend, rewrite, measure again."""
    from vllm_rightsizer.demo.run import run_demo

    raise typer.Exit(run_demo(output, seed))


@app.command()
def admit(
    objects: Annotated[
        Path | None, typer.Option(help="Folder with recommendations and policies; without it, nothing is sized.")
    ] = None,
) -> None:
    """Answer one AdmissionReview: JSON on stdin, JSON on stdout, as the webhook would."""
    from webhook.offline import admit_json

    if objects is not None:
        require_folder(objects)
    try:
        answer = admit_json(sys.stdin.buffer.read(), objects)
    except ValueError as error:
        raise UsageError(f"stdin: {error}") from error
    write_out(f"{answer.decode()}\n")


@app.command()
def rewrite(
    file: Annotated[str, typer.Option("--file", "-f", help="YAML manifest, of one document or several; - for stdin.")],
    kv_bytes: Annotated[int, typer.Option(min=1, help="Size of the KV cache in bytes per GPU.")],
    utilization: Annotated[
        float | None, typer.Option(help="Fraction of the GPU's memory that vLLM may claim, above 0 and at most 1.")
    ] = None,
    output: Annotated[ManifestOutput, typer.Option("--output", "-o", help="What to print.")] = ManifestOutput.DIFF,
) -> None:
    """Show what the webhook would change in the pods of a manifest."""
    from vllm_rightsizer.rewriting import rewrite_manifest

    if utilization is not None and not 0 < utilization <= 1:
        raise UsageError(f"--utilization {utilization} is no fraction of the memory: give one above 0 and at most 1")
    name = "stdin" if file == "-" else file
    text = _text_of(file)
    manifest = rewrite_manifest(text, name, kv_bytes, None if utilization is None else _rounded_up(utilization))
    write_out(manifest.diff(name.lstrip("/")) if output is ManifestOutput.DIFF else manifest.after)
    for note in manifest.notes:
        print(f"left alone: {note}", file=sys.stderr)
    if manifest.before.rstrip() != text.rstrip():
        how = "is laid out in another way than it is written here (indentation, blanks): no patch for the file as it is"
        print(f"{name} {how}", file=sys.stderr)


app.command("list")(list_workloads)
app.command()(explain)
app.command("what-if")(what_if)
app.command()(plan)


@app.command()
def doctor(
    kubeconfig: OwnKubeconfig = None,
    context: Context = None,
    namespace: Home = None,
    output: DiagnosisOutput = Diagnosis.TABLE,
    color: ColorOption = Color.AUTO,
    bundle: Bundle = None,
) -> None:
    """Look at an installation from outside: what is wrong, why that matters, and the command that mends it."""
    from vllm_rightsizer.doctor.command import run_doctor

    raise typer.Exit(run_doctor(kubeconfig, context, namespace, bundle, output, color))


@app.command()
def crds(
    folder: Annotated[Path | None, typer.Option(help="Write one file a kind there, and print nothing.")] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Bring the API server's up to date, and print nothing.")
    ] = False,
    kubeconfig: OwnKubeconfig = None,
    context: Context = None,
) -> None:
    """Print the custom resource definitions of this version, for `kubectl apply --server-side -f -`."""
    from vllm_rightsizer.definitions import as_yaml, write_files

    if apply:
        from vllm_rightsizer.applying import apply_definitions

        if folder is not None:
            raise UsageError("--folder writes files, and --apply to the API server: leave one of them out")
        apply_definitions(kubeconfig, context)
    elif folder is None:
        write_out(as_yaml())
    else:
        write_files(folder)


def _rounded_up(utilization: float) -> str:
    """Four decimals, as the recommender writes them: never less than was asked for."""
    return str(Decimal(str(utilization)).quantize(Decimal("0.0001"), rounding=ROUND_CEILING))


def _text_of(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text: {error.reason} at byte {error.start}") from error


def _program() -> str | None:
    """What the program is called in its help; None: as the file that was started. kubectl starts its plugins under a
    name that nobody types, and completes their arguments in its own way."""
    if Path(sys.argv[0]).name != "kubectl-vllm_rightsizer":
        return None
    own = any(word.startswith(("--show-completion", "--install-completion")) for word in sys.argv[1:2])
    return "vllm-rightsizer" if own else "kubectl vllm-rightsizer"


def main() -> None:
    """Run the command line; what a user can mend is said in one message, without a traceback."""
    try:
        app(prog_name=_program())
    except UserError as error:
        print(f"vllm-rightsizer: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        # The reader of our output has seen enough. Python would complain once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
