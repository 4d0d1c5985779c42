// What stands in for ScaLAPACK where the build leaves it out.
#include <rankfold/scalapack/full_svd.hpp>

namespace rankfold {

bool has_scalapack() {
    return false;
}

template <Real R>
FullSvd<R> full_svd(const BlockRows<R>& /*a*/, const FullSvdOptions& /*options*/) {
    throw Error(Fault::input,
                "this rankfold was built without ScaLAPACK (RANKFOLD_SCALAPACK=OFF): ask for "
                "--factors instead of --full",
                true);
}

template FullSvd<float> full_svd(const BlockRows<float>&, const FullSvdOptions&);
template FullSvd<double> full_svd(const BlockRows<double>&, const FullSvdOptions&);

}  // namespace rankfold
