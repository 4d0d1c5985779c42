#include <rankfold/hybrid/compress.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <queue>

#include <rankfold/core/random.hpp>
#include <rankfold/factor/als.hpp>
#include <rankfold/linalg/blas.hpp>
#include <rankfold/linalg/lapack.hpp>

namespace rankfold {

namespace {

/// W ≈ U Vᵀ.
struct Pair {
    DenseMatrix<double> u;  // out x inner
    DenseMatrix<double> v;  // in x inner
};

Pair by_svd(const SmallSvd& svd, Index inner) {
    Pair pair{DenseMatrix<double>(svd.u.rows(), inner), DenseMatrix<double>(svd.vt.cols(), inner)};
    for (Index f = 0; f < inner; ++f) {  // both sides get √σ: gradients of like size
        const double root = std::sqrt(svd.s[static_cast<std::size_t>(f)]);
        for (Index i = 0; i < pair.u.rows(); ++i) pair.u(i, f) = root * svd.u(i, f);
        for (Index j = 0; j < pair.v.rows(); ++j) pair.v(j, f) = root * svd.vt(f, j);
    }
    return pair;
}

Pair by_als(const Communicator& comm, const DenseMatrix<double>& w, Index inner,
            const CompressOptions& options) {
    BlockRows<double> rows(comm, ShardLayout::even(w.rows(), 64, comm.size()), w.cols());
    for (Index i = 0; i < rows.local().rows(); ++i) {
        std::ranges::copy(w.row(rows.first_row() + i), rows.local().row(i).begin());
    }
    // a ridge far below the weights keeps the systems definite when W has lower rank
    double square = 0.0;
    for (const double x : w.data()) square += x * x;
    const double ridge = 1e-8 * std::sqrt(square / static_cast<double>(w.data().size()));
    const Factors<double> factors = als(rows,
                                        {.k = inner,
                                         .sweeps = options.sweeps,
                                         .lambda = ridge,
                                         .lambda_exponent = 0.0,
                                         .centering = Centering::none,
                                         .seed = options.seed},
                                        Steering{});
    return {gather_all(factors.rows), gather_all(factors.cols)};
}

/// Hierarchical ALS (Cichocki and Phan, 2009) on a small nonnegative matrix: A ≈ U Vᵀ, U, V >= 0.
Pair small_nmf(const DenseMatrix<double>& a, Index inner, const CompressOptions& options,
               Index stream) {
    const Philox random(options.seed, Stream::weights);
    Pair pair{DenseMatrix<double>(a.rows(), inner), DenseMatrix<double>(a.cols(), inner)};
    for (Index i = 0; i < a.rows(); ++i) {
        for (Index f = 0; f < inner; ++f) pair.u(i, f) = random.uniform(i, f + 4096 * stream);
    }
    for (Index j = 0; j < a.cols(); ++j) {
        for (Index f = 0; f < inner; ++f) {
            pair.v(j, f) = random.uniform(a.rows() + j, f + 4096 * stream);
        }
    }
    const auto update = [&](Transpose side, const DenseMatrix<double>& fixed,
                            DenseMatrix<double>& x) {
        DenseMatrix<double> gram(inner, inner);
        DenseMatrix<double> product(x.rows(), inner);
        gemm<double>(Transpose::yes, Transpose::no, 1.0, fixed.view(), fixed.view(), 0.0,
                     gram.view());
        gemm<double>(side, Transpose::no, 1.0, a.view(), fixed.view(), 0.0, product.view());
        for (Index f = 0; f < inner; ++f) {
            const double scale = std::max(gram(f, f), 1e-300);
            for (Index i = 0; i < x.rows(); ++i) {
                double step = product(i, f);
                for (Index g = 0; g < inner; ++g) step -= x(i, g) * gram(g, f);
                x(i, f) = std::max(0.0, x(i, f) + step / scale);
            }
        }
    };
    for (Index sweep = 0; sweep < options.sweeps; ++sweep) {
        update(Transpose::no, pair.v, pair.u);
        update(Transpose::yes, pair.u, pair.v);
    }
    return pair;
}

/// W = W⁺ − W⁻: half of the inner dimension for each part.
Pair by_nmf(const DenseMatrix<double>& w, Index inner, const CompressOptions& options) {
    DenseMatrix<double> plus(w.rows(), w.cols());
    DenseMatrix<double> minus(w.rows(), w.cols());
    for (std::size_t e = 0; e < w.data().size(); ++e) {
        plus.data()[e] = std::max(0.0, w.data()[e]);
        minus.data()[e] = std::max(0.0, -w.data()[e]);
    }
    const Index half = (inner + 1) / 2;
    const Pair p = small_nmf(plus, half, options, 0);
    const Pair n = small_nmf(minus, inner - half, options, 1);
    Pair pair{DenseMatrix<double>(w.rows(), inner), DenseMatrix<double>(w.cols(), inner)};
    for (Index f = 0; f < inner; ++f) {
        const bool first = f < half;
        const Pair& from = first ? p : n;
        const Index at = first ? f : f - half;
        for (Index i = 0; i < w.rows(); ++i) pair.u(i, f) = (first ? 1.0 : -1.0) * from.u(i, at);
        for (Index j = 0; j < w.cols(); ++j) pair.v(j, f) = from.v(j, at);
    }
    return pair;
}

double relative_error(const DenseMatrix<double>& w, const Pair& pair) {
    DenseMatrix<double> rest = w.clone();
    gemm<double>(Transpose::no, Transpose::yes, -1.0, pair.u.view(), pair.v.view(), 1.0,
                 rest.view());
    double error = 0.0;
    double whole = 0.0;
    for (std::size_t e = 0; e < w.data().size(); ++e) {
        error += rest.data()[e] * rest.data()[e];
        whole += w.data()[e] * w.data()[e];
    }
    return whole > 0.0 ? std::sqrt(error / whole) : 0.0;
}

template <Real To, Real From>
void copy_matrix(MatrixView<const From> from, MatrixView<To> to) {
    RANKFOLD_EXPECT(from.rows == to.rows && from.cols == to.cols);
    for (Index i = 0; i < from.rows; ++i) {
        for (Index j = 0; j < from.cols; ++j) to(i, j) = static_cast<To>(from(i, j));
    }
}

}  // namespace

std::vector<Index> allocate_ranks(const std::vector<std::pair<Index, Index>>& shapes,
                                  const std::vector<std::vector<double>>& spectra, Index budget) {
    struct Step {
        double gain;  // share of the layer's squared norm, per weight
        std::size_t layer;
        bool operator<(const Step& other) const {
            return gain < other.gain || (gain == other.gain && layer > other.layer);
        }
    };
    std::vector<Index> inner(shapes.size(), 1);
    std::vector<double> norms(shapes.size(), 0.0);
    std::priority_queue<Step> steps;
    const auto price = [&](std::size_t l) { return shapes[l].first + shapes[l].second; };
    const auto offer = [&](std::size_t l) {
        const auto next = static_cast<std::size_t>(inner[l]);
        if (next >= spectra[l].size() || norms[l] == 0.0) return;
        const double sigma = spectra[l][next];
        steps.push({sigma * sigma / norms[l] / static_cast<double>(price(l)), l});
    };
    Index used = 0;
    for (std::size_t l = 0; l < shapes.size(); ++l) {
        for (const double s : spectra[l]) norms[l] += s * s;
        const Index dense = shapes[l].first * shapes[l].second;
        if (price(l) >= dense) inner[l] = 0;
        used += inner[l] == 0 ? dense : price(l);
    }
    if (used > budget) {
        throw input_error("a size of ", budget,
                          " weights is below the least that the layers can "
                          "have (",
                          used, "); ask for a larger --size");
    }
    for (std::size_t l = 0; l < shapes.size(); ++l) {
        if (inner[l] > 0) offer(l);
    }
    while (!steps.empty()) {
        const std::size_t l = steps.top().layer;
        steps.pop();
        const Index dense = shapes[l].first * shapes[l].second;
        const bool whole = (inner[l] + 1) * price(l) >= dense;
        const Index cost = whole ? dense - inner[l] * price(l) : price(l);
        if (used + cost > budget) continue;  // a smaller layer may still have room
        used += cost;
        inner[l] = whole ? 0 : inner[l] + 1;
        if (!whole) offer(l);
    }
    return inner;
}

template <Real R>
Network<R> compress(const Communicator& comm, Network<R>& network, const CompressOptions& options,
                    std::vector<LayerPlan>& plan) {
    plan.clear();
    std::vector<std::pair<Index, Index>> shapes;
    std::vector<std::vector<double>> spectra;
    std::vector<DenseMatrix<double>> weights;
    std::vector<SmallSvd> svds;
    Index total = 0;
    for (const LayerSpec& layer : network.graph().layers) {
        if (layer.kind != LayerKind::dense) continue;
        const MatrixView<R> w = network.arena().matrix("layers/" + layer.name + "/weight");
        weights.emplace_back(w.rows, w.cols);
        copy_matrix<double, R>(w, weights.back().view());
        svds.push_back(small_svd(std::as_const(weights.back()).view()));
        shapes.emplace_back(w.rows, w.cols);
        spectra.push_back(svds.back().s);
        plan.push_back({.layer = layer.name, .out = w.rows, .in = w.cols});
        total += w.rows * w.cols;
    }
    if (plan.empty()) throw input_error("the network has no dense layer to compress");
    const std::vector<Index> inner = allocate_ranks(
        shapes, spectra, static_cast<Index>(options.size * static_cast<double>(total)));

    Graph graph = network.graph();
    std::vector<Pair> pairs(plan.size());
    for (std::size_t l = 0; l < plan.size(); ++l) {
        plan[l].inner = inner[l];
        if (inner[l] == 0) continue;
        switch (options.method) {
            case CompressMethod::svd:
                pairs[l] = by_svd(svds[l], inner[l]);
                break;
            case CompressMethod::als:
                pairs[l] = by_als(comm, weights[l], inner[l], options);
                break;
            case CompressMethod::nmf:
                pairs[l] = by_nmf(weights[l], inner[l], options);
                break;
        }
        plan[l].relative_error = relative_error(weights[l], pairs[l]);
        auto& spec = *std::ranges::find(graph.layers, plan[l].layer, &LayerSpec::name);
        spec.kind = LayerKind::factored;
        spec.inner = inner[l];
    }
    Network<R> result(graph);
    for (const ParameterTensor& tensor : network.arena().tensors()) {
        const auto& layer = graph.layers[static_cast<std::size_t>(tensor.layer)];
        const auto row = std::ranges::find(plan, layer.name, &LayerPlan::layer);
        if (tensor.part == Part::weight && row != plan.end() && row->inner > 0) {
            const Pair& pair = pairs[static_cast<std::size_t>(row - plan.begin())];
            const std::string at = "layers/" + layer.name;
            copy_matrix<R, double>(pair.u.view(), result.arena().matrix(at + "/u"));
            copy_matrix<R, double>(pair.v.view(), result.arena().matrix(at + "/v"));
        } else {
            copy_matrix<R, R>(network.arena().matrix(tensor.path),
                              result.arena().matrix(tensor.path));
        }
    }
    return result;
}

template Network<float> compress(const Communicator&, Network<float>&, const CompressOptions&,
                                 std::vector<LayerPlan>&);
template Network<double> compress(const Communicator&, Network<double>&, const CompressOptions&,
                                  std::vector<LayerPlan>&);

}  // namespace rankfold
