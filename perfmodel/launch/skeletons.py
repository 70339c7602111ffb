"""Slurm and Kubernetes: skeletons around the command of a plan, with the sizes that the plan fixes filled in."""

from __future__ import annotations

import re
from typing import Any

from perfmodel.errors import PlanError
from perfmodel.launch.plan import Deployment, Role, TrainingRun, nodes_of
from perfmodel.launch.tables import Table
from perfmodel.launch.text import command, tables_of, yaml_text

__all__ = ["kubernetes_role", "kubernetes_training", "slurm_role", "slurm_training"]

_RESOURCES = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "Google": "google.com/tpu"}
_PORT = 29500


def slurm_training(plan: TrainingRun, table: Table, before: list[str], words: list[str], flags: dict[str, Any]) -> str:
    """A batch script that starts one torchrun on each node; `words` and `flags` are the training script's, `before`
    stands in front of torchrun.
    """
    nodes, per_node = plan.nodes
    whole = per_node == plan.cluster.accelerators_per_node
    about = _directives(table, f"train-{_name(plan.model.id)}", nodes, per_node, {"--exclusive": True} if whole else {})
    lines = ["HEAD_ADDRESS=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)\n"]
    torchrun = ["srun", *before, *_torchrun(nodes, per_node), f"--rdzv-endpoint=$HEAD_ADDRESS:{_PORT}", *words]
    return "".join([about, *lines, command(torchrun, flags)])


def slurm_role(plan: Deployment, role: Role, table: Table, words: list[str], flags: dict[str, Any]) -> str:
    """A batch script that starts one server, or an array of equal ones."""
    nodes, per_node = nodes_of(role.accelerators, plan.cluster)
    more: dict[str, Any] = {"--exclusive": True} if per_node == plan.cluster.accelerators_per_node else {}
    more |= {"--array": f"1-{role.replicas}"} if role.replicas > 1 else {}
    about = _directives(table, f"{role.name}-{_name(plan.model.id)}", nodes, per_node, more)
    head = "HEAD_ADDRESS=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)\n" if nodes > 1 else ""
    if "--node-rank" in flags:  # srun numbers the nodes where the command runs, not where the script does
        line = command(words, flags).replace("$NODE_RANK", "$SLURM_NODEID").rstrip("\n")
        return f"{about}{head}export HEAD_ADDRESS\nsrun bash -c '{line}'\n"
    return about + head + command(["srun", *words], flags)


def _directives(table: Table, name: str, nodes: int, per_node: int, more: dict[str, Any]) -> str:
    options: dict[str, Any] = {
        "--job-name": name,
        "--nodes": nodes,
        "--ntasks-per-node": 1,
        "--gpus-per-node": per_node,
        "--output": "%x-%j.log",
    } | more
    lines = ["#!/bin/bash\n"]
    for option, value in options.items():
        table.emitted(option, value)
        lines.append(f"#SBATCH {option}\n" if value is True else f"#SBATCH {option}={value}\n")
    return "".join(lines)


def _torchrun(nodes: int, per_node: int) -> list[str]:
    return ["torchrun", f"--nnodes={nodes}", f"--nproc-per-node={per_node}", "--rdzv-backend=c10d"]


def kubernetes_training(
    plan: TrainingRun, table: Table, before: list[str], words: list[str], flags: dict[str, Any]
) -> str:
    """An indexed Job of one pod a node, and the headless Service by which the pods find the first one."""
    nodes, per_node = plan.nodes
    name = f"train-{_name(plan.model.id)}"
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata.name": name,
        "spec.clusterIP": "None", "spec.selector.job-name": name,
    }  # fmt: skip
    run = [*before, *_torchrun(nodes, per_node), f"--rdzv-endpoint={name}-0.{name}:{_PORT}", *words]
    job = {
        "apiVersion": "batch/v1", "kind": "Job", "metadata.name": name,
        "spec.completionMode": "Indexed", "spec.completions": nodes, "spec.parallelism": nodes,
        "spec.template.spec.subdomain": name, "spec.template.spec.restartPolicy": "Never",
    }  # fmt: skip
    container = _container(plan, table, run, flags, per_node, "train")
    return _documents(table, (service, None), (job, container))


def kubernetes_role(plan: Deployment, role: Role, table: Table, words: list[str], flags: dict[str, Any]) -> str:
    """A Deployment of equal servers and the Service in front; raises `PlanError` for a replica of several nodes."""
    nodes, per_node = nodes_of(role.accelerators, plan.cluster)
    if nodes > 1:
        raise PlanError(
            f"{table.label}: {role.name}: a replica spans {nodes} nodes; a Deployment holds one node's; use slurm"
        )
    name, port = f"{role.name}-{_name(plan.model.id)}", flags["--port"]
    service = {
        "apiVersion": "v1", "kind": "Service", "metadata.name": name,
        "spec.selector.app": name, "spec.ports": [{"port": table.emitted("spec.ports.port", port)}],
    }  # fmt: skip
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata.name": name,
        "spec.replicas": role.replicas, "spec.selector.matchLabels.app": name,
        "spec.template.metadata.labels.app": name,
    }  # fmt: skip
    container = _container(plan, table, words, flags, per_node, role.name, port)
    return _documents(table, (service, None), (deployment, container))


_IN = "spec.template.spec.containers."


def _container(
    plan: TrainingRun | Deployment,
    table: Table,
    words: list[str],
    flags: dict[str, Any],
    per_node: int,
    name: str,
    port: int | None = None,
) -> dict[str, Any]:
    vendor = plan.cluster.accelerator.vendor
    if vendor not in _RESOURCES:
        raise PlanError(f"{table.label}: no resource name is known for accelerators of {vendor or 'an unnamed vendor'}")
    resource = _RESOURCES[vendor]
    table.emitted(f"{_IN}resources.limits.{resource}", per_node)
    found: dict[str, Any] = {
        "name": table.emitted(_IN + "name", name),
        "image": table.emitted(_IN + "image", "IMAGE"),
        "command": table.emitted(
            _IN + "command", ["bash", "-c", command(words, flags).replace(" \\\n   ", "").strip()]
        ),
    }
    if port is not None:
        found["ports"] = [{"containerPort": table.emitted(_IN + "ports.containerPort", port)}]
    return found | {"resources": {"limits": {resource: per_node}}}


def _documents(table: Table, *parts: tuple[dict[str, Any], dict[str, Any] | None]) -> str:
    texts = []
    for keys, container in parts:
        for key, value in keys.items():
            if not isinstance(value, list):
                table.emitted(key, value)
        nested = tables_of(keys)
        if container is not None:
            nested["spec"].setdefault("template", {}).setdefault("spec", {})["containers"] = [container]
        texts.append(yaml_text(nested))
    return "---\n".join(texts)


def _name(id: str) -> str:
    """A name as both take it: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", id.lower()).strip("-")[:40] or "model"
