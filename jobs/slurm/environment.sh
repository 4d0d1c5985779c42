# What the batch scripts of this folder share. To be sourced inside a Slurm job; needs bash.
#
# RANKFOLD           the program, if it is not on the PATH
# RANKFOLD_LAUNCHER  srun (default, with --mpi=pmix) or mpirun

rankfold=${RANKFOLD:-rankfold}

# module load openmpi hdf5/parallel openblas    # whatever your site calls them

# BLAS must not start threads of its own: rankfold gives work to its threads itself.
export OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 BLIS_NUM_THREADS=1
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} OMP_PLACES=cores OMP_PROC_BIND=close
# Since Slurm 22.05 srun no longer inherits --cpus-per-task from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# Nodes of different kinds would compute other bits, which is refused; this forces one kernel.
# export OPENBLAS_CORETYPE=Haswell
# Open MPI's mpirun leaves this many seconds between TERM and KILL, for a last checkpoint.
export OMPI_MCA_odls_base_sigkill_timeout=8

# When this job ends, which newer Slurms say themselves: rankfold stops ahead of it.
if [[ -z ${SLURM_JOB_END_TIME:-} ]]; then
    end=$(squeue -h -j "$SLURM_JOB_ID" -o %e 2>/dev/null) && end=$(date -d "$end" +%s 2>/dev/null) &&
        export SLURM_JOB_END_TIME=$end
fi

# "${launch[@]}" COMMAND...: the command on all ranks of this job.
if [[ ${RANKFOLD_LAUNCHER:-srun} == mpirun ]]; then
    # Open MPI's own launcher reads the allocation from Slurm.
    launch=(mpirun --map-by "slot:PE=$OMP_NUM_THREADS" --bind-to core)
else
    # --kill-on-bad-exit: a rank that dies ends the step at once
    launch=(srun --mpi=pmix --cpu-bind=cores --kill-on-bad-exit=1)
fi

# requeue_unless_cancelled: puts this job into the queue again. After scancel it is no longer RUNNING.
requeue_unless_cancelled() {
    if [[ $(squeue -h -j "$SLURM_JOB_ID" -o %T) == RUNNING ]]; then
        echo "stopped with a checkpoint: to be continued"
        scontrol requeue "$SLURM_JOB_ID"
    else
        echo "cancelled; the checkpoints stay"
    fi
}
