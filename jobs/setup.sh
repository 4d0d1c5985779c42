# What the scripts of this folder share. To be sourced; needs bash.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# of the machine: nproc by itself says what OMP_NUM_THREADS does, which is 1 for our ranks
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)

build_packages=(cmake g++ make pkg-config openmpi-bin libopenmpi-dev libhdf5-openmpi-dev
    libopenblas-openmp-dev libscalapack-openmpi-dev libhwy-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev
    libfmt-dev zlib1g-dev)
test_packages=(libgtest-dev clang-format python3 python3-h5py python3-scipy python3-anndata
    dataset-fashion-mnist slurmctld slurmd slurm-client munge gnuplot-nox iproute2)

# One line for people, set off from the output of the tools.
say() { printf '\n== %s\n' "$*"; }

# The comment at the top of the calling script.
usage() { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; }

die() {
    printf '%s\n' "$*" >&2
    exit 2
}

# install_packages yes|no NAME...: installs those that are missing through apt; with "no" lists
# them and stops instead. On other systems than Debian it stops only if CMake will not find them.
install_packages() {
    local install=$1 name missing=()
    shift
    if ! command -v apt-get >/dev/null; then
        say "no apt here: CMake will look for MPI, parallel HDF5, BLAS and the others itself"
        return
    fi
    for name in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] ||
            missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    if [[ $install == no ]]; then
        die "missing packages: ${missing[*]}
install them with: apt-get install --no-install-recommends ${missing[*]}"
    fi
    say "installing ${missing[*]}"
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || die "neither root nor sudo: ask for ${missing[*]}"
        as_root=(sudo)
    fi
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
    # The package list may be absent (a fresh container) or too old to name what the mirror has.
    "${apt[@]}" install --no-install-recommends "${missing[@]}" ||
        { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; }
}

# build PRESET ON|OFF: configures and builds in build/PRESET, with or without the tests.
build() {
    say "building build/$1"
    (cd "$root" && cmake --preset "$1" -DRANKFOLD_TESTS="$2" &&
        cmake --build --preset "$1" -j "$cores") || exit
}

# For MPI on one machine: one BLAS and OpenMP thread a rank, more ranks than cores allowed, and root
# only if we are root (a container).
mpi_environment() {
    export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    if ((EUID == 0)); then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}
