"""The runs of a scaling study as batch jobs of Slurm, one for each number of ranks."""

import json
import shlex
import subprocess
import sys

# by which a batch job makes the runs of one number of ranks (0: the matrices), and judges nothing
WORKER = "--only"


def sbatch(options, name, tasks, words, after=None):
    """Submits a command, and returns the job's number."""
    command = ["sbatch", "--parsable", f"--job-name={name}", f"--ntasks={tasks}",
               f"--cpus-per-task={options.threads}", f"--output={options.out}/runs/job-%j.log"]
    if after:
        command += [f"--dependency=afterok:{after}", "--kill-on-invalid-dep=yes"]
    command += [*shlex.split(options.sbatch), "--wrap", shlex.join(map(str, words))]
    made = subprocess.run(command, text=True, capture_output=True, check=False)
    if made.returncode != 0:
        sys.exit(f"{shlex.join(command)}\nended with exit code {made.returncode}:\n"
                 f"{made.stderr.strip()}")
    return made.stdout.strip().split(";")[0]


def waiting(jobs):
    """Those of the jobs that Slurm still has to run, or runs."""
    asked = subprocess.run(["squeue", "--noheader", "--format=%A %T", "--me"], text=True,
                           capture_output=True, check=False)
    if asked.returncode != 0:
        sys.exit(f"squeue: {asked.stderr.strip()}")
    known = dict(line.split() for line in asked.stdout.splitlines())
    return {what: job for what, job in jobs.items() if job in known}


def worker(options, ranks):
    """The command of a batch job."""
    return [options.script, options.kind, options.method, WORKER, ranks, "--ranks",
            ",".join(map(str, options.ranks)), "--repeats", options.repeats, "--size", options.size,
            "--threads", options.threads, "--out", options.out, "--rankfold", options.rankfold,
            "--processors", options.processors, "--launcher", options.launcher]


def submit(options, missing):
    """Submits what is missing and neither waits nor runs; True if there is anything to wait for.

    @param missing  numbers of ranks that lack runs; 0 stands for matrices
    """
    if not missing:
        return False
    file = options.out / "jobs.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    jobs = waiting(earlier)
    for what in sorted(missing):
        key = str(what)
        name = f"{what} ranks" if what else "matrices"
        if key in jobs:
            print(f"{name}: job {jobs[key]} is in Slurm's queue")
            continue
        if key in earlier:
            print(f"{name}: job {earlier[key]} ended without its runs, see "
                  f"{options.out}/runs/job-{earlier[key]}.log")
        # two jobs that made the same matrix would be in each other's way
        after = jobs.get("0") if what else None
        jobs[key] = sbatch(options, f"{options.kind}-{options.method}-{what}", what or 1,
                           worker(options, what), after)
        print(f"{name}: submitted as job {jobs[key]}" + (f", after job {after}" if after else ""))
        file.write_text(json.dumps(earlier | jobs))
    print("call this again: when all runs are there, it makes the page of them")
    return True
