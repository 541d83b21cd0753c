# The order of work: kernels, then each paper's notebooks one after the other; papers are independent of each other.
#
# Called by `python -m sheaf reproduce` (make reproduce), which decides from content what is out of date, writes the plan
# read here, and removes the done file of every notebook that has to run. Snakemake schedules, keeps going after a
# failure and carries jobs to clusters. A job's one output here is its done file, written last; its inputs are marked
# ancient because times of files say nothing. Results themselves are stored whole by `python -m sheaf run`.
import json
from pathlib import Path

if not Path(".sheaf/plan.json").is_file():
    raise WorkflowError("there is no plan: call `python -m sheaf reproduce` (make reproduce) instead of snakemake")
PLAN = json.loads(Path(".sheaf/plan.json").read_text(encoding="utf-8"))
JOBS = {(job["paper"], job["notebook"]): job for job in PLAN["jobs"]}
KERNELS = ".sheaf/done/kernels"


def before(wildcards):
    """What has to be there first: the paper's previous notebook, and the kernels when the paper uses any."""
    job = JOBS[wildcards.paper, wildcards.notebook]
    return job["after"] + ([KERNELS] if job["kernels"] else [])


rule all:
    input:
        [job["done"] for job in PLAN["jobs"]],


rule notebook:
    input:
        ancient(".sheaf/manifests/{profile}/{paper}/{notebook}.json"),
        ancient(before),
    output:
        ".sheaf/done/{profile}/{paper}/{notebook}.json",
    log:
        ".sheaf/logs/{profile}/{paper}/{notebook}.log",
    threads: PLAN["threads"]
    resources:
        runtime=lambda wildcards: JOBS[wildcards.paper, wildcards.notebook]["minutes"],
        mem_mb=PLAN["mem_mb"],
    params:
        python=PLAN["python"],
        seed=PLAN["seed"],
    shell:
        "{params.python:q} -m sheaf run {wildcards.paper:q} {wildcards.notebook:q} --profile {wildcards.profile:q} "
        "--seed {params.seed:q} > {log:q} 2>&1"


rule kernels:
    output:
        touch(KERNELS),
    log:
        ".sheaf/logs/kernels.log",
    threads: PLAN["threads"]
    resources:
        runtime=30,
        mem_mb=PLAN["mem_mb"],
    params:
        python=PLAN["python"],
    shell:
        "{params.python:q} -m sheaf_kernels.build > {log:q} 2>&1"
