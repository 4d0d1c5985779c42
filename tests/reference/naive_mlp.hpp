// The slow obvious training of a chain of dense layers, in double, one sample at a time.
#pragma once

#include <cmath>
#include <numbers>
#include <vector>

#include <rankfold/nn/loss.hpp>
#include <rankfold/nn/optimizer.hpp>

namespace rankfold::test {

using Vector = std::vector<double>;

struct NaiveLayer {
    std::vector<Vector> weight;  // out x in
    Vector bias;
    Activation activation = Activation::identity;
};

/// A sample: its input and its target, a distribution over the outputs or one value.
struct NaiveSample {
    Vector input;
    Vector target;
};

inline double naive_activation(Activation f, double z) {
    switch (f) {
        case Activation::identity:
            return z;
        case Activation::relu:
            return z > 0.0 ? z : 0.0;
        case Activation::tanh:
            return std::tanh(z);
        case Activation::gelu:
            return 0.5 * z *
                   (1.0 +
                    std::tanh(std::sqrt(2.0 / std::numbers::pi) * (z + 0.044715 * z * z * z)));
        default:
            break;
    }
    return 1.0 / (1.0 + std::exp(-z));
}

inline double naive_derivative(Activation f, double z) {
    const double a = naive_activation(f, z);
    switch (f) {
        case Activation::identity:
            return 1.0;
        case Activation::relu:
            return z > 0.0 ? 1.0 : 0.0;
        case Activation::tanh:
            return 1.0 - a * a;
        case Activation::gelu: {
            constexpr double h = 1e-6;
            return (naive_activation(f, z + h) - naive_activation(f, z - h)) / (2.0 * h);
        }
        default:
            break;
    }
    return a * (1.0 - a);
}

/// The loss at output z, and its gradient in `d`.
inline double naive_loss(Loss loss, const Vector& z, const Vector& target, Vector& d) {
    d.assign(z.size(), 0.0);
    if (loss == Loss::squared) {
        d[0] = 2.0 * (z[0] - target[0]);
        return (z[0] - target[0]) * (z[0] - target[0]);
    }
    double sum = 0.0;
    for (const double x : z) sum += std::exp(x);
    double value = 0.0;
    for (std::size_t j = 0; j < z.size(); ++j) {
        d[j] = std::exp(z[j]) / sum - target[j];
        value -= target[j] * (z[j] - std::log(sum));
    }
    return value;
}

/// Trains with one update per batch; returns the mean loss over all samples that were used.
class NaiveMlp {
public:
    NaiveMlp(std::vector<NaiveLayer> layers, Loss loss, const OptimizerOptions& options)
        : layers_{std::move(layers)},
          loss_{loss},
          options_{options},
          first_{zeros()},
          second_{zeros()} {}

    [[nodiscard]] const std::vector<NaiveLayer>& layers() const { return layers_; }

    double train(const std::vector<std::vector<NaiveSample>>& batches, Index first_step,
                 Index steps) {
        double total = 0.0;
        double samples = 0.0;
        Index step = first_step;
        for (const auto& batch : batches) {
            gradient_ = zeros();
            for (const NaiveSample& sample : batch) {
                total += add_gradient(sample, 1.0 / static_cast<double>(batch.size()));
            }
            update(step++, steps);
            samples += static_cast<double>(batch.size());
        }
        return total / samples;
    }

private:
    [[nodiscard]] std::vector<NaiveLayer> zeros() const {
        auto copy = layers_;
        for (auto& layer : copy) {
            for (auto& row : layer.weight) row.assign(row.size(), 0.0);
            layer.bias.assign(layer.bias.size(), 0.0);
        }
        return copy;
    }

    double add_gradient(const NaiveSample& sample, double factor) {
        std::vector<Vector> inputs{sample.input};
        std::vector<Vector> sums;
        for (const auto& layer : layers_) {
            Vector z = layer.bias;
            for (std::size_t o = 0; o < z.size(); ++o) {
                for (std::size_t i = 0; i < inputs.back().size(); ++i) {
                    z[o] += layer.weight[o][i] * inputs.back()[i];
                }
            }
            Vector a;
            for (const double x : z) a.push_back(naive_activation(layer.activation, x));
            sums.push_back(z);
            inputs.push_back(a);
        }
        Vector d;
        const double value = naive_loss(loss_, inputs.back(), sample.target, d);
        for (std::size_t l = layers_.size(); l-- > 0;) {
            for (std::size_t o = 0; o < d.size(); ++o) {
                d[o] *= naive_derivative(layers_[l].activation, sums[l][o]);
            }
            Vector before(inputs[l].size(), 0.0);
            for (std::size_t o = 0; o < d.size(); ++o) {
                gradient_[l].bias[o] += factor * d[o];
                for (std::size_t i = 0; i < before.size(); ++i) {
                    gradient_[l].weight[o][i] += factor * d[o] * inputs[l][i];
                    before[i] += d[o] * layers_[l].weight[o][i];
                }
            }
            d = before;
        }
        return value;
    }

    void update(Index step, Index steps) {
        const double rate = learning_rate(options_, {.step = step, .steps = steps});
        double squares = 0.0;
        for (const NaiveLayer& layer : gradient_) {
            for (std::size_t o = 0; o < layer.bias.size(); ++o) {
                squares += layer.bias[o] * layer.bias[o];
                for (const double g : layer.weight[o]) squares += g * g;
            }
        }
        const double norm = std::sqrt(squares);
        const double clip =
            options_.clip > 0.0 && norm > options_.clip ? options_.clip / norm : 1.0;
        for (std::size_t l = 0; l < layers_.size(); ++l) {
            for (std::size_t o = 0; o < layers_[l].bias.size(); ++o) {
                change(step, rate, 0.0, clip * gradient_[l].bias[o], layers_[l].bias[o],
                       first_[l].bias[o], second_[l].bias[o]);
                for (std::size_t i = 0; i < layers_[l].weight[o].size(); ++i) {
                    change(step, rate, options_.weight_decay, clip * gradient_[l].weight[o][i],
                           layers_[l].weight[o][i], first_[l].weight[o][i],
                           second_[l].weight[o][i]);
                }
            }
        }
    }

    void change(Index step, double rate, double decay, double g, double& w, double& m,
                double& v) const {
        if (options_.method != Method::adamw) g += decay * w;
        if (options_.method == Method::sgd) {
            m = options_.momentum * m + g;
            w -= rate * m;
            return;
        }
        const auto t = static_cast<double>(step + 1);
        m = options_.beta1 * m + (1.0 - options_.beta1) * g;
        v = options_.beta2 * v + (1.0 - options_.beta2) * g * g;
        const double m_hat = m / (1.0 - std::pow(options_.beta1, t));
        const double v_hat = v / (1.0 - std::pow(options_.beta2, t));
        if (options_.method == Method::adamw) w -= rate * decay * w;
        w -= rate * m_hat / (std::sqrt(v_hat) + options_.epsilon);
    }

    std::vector<NaiveLayer> layers_;
    Loss loss_;
    OptimizerOptions options_;
    std::vector<NaiveLayer> first_;
    std::vector<NaiveLayer> second_;
    std::vector<NaiveLayer> gradient_;
};

}  // namespace rankfold::test
