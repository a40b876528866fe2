// cuDNN, libcudnn.so.9: convolutions of the interface of descriptors, f32 and bf16, in the order NCHW or NHWC.
//
// Patches of the input are gathered and multiplied with the filters. All algorithms compute this; they differ in what a program must
// take care of: memory to work in, arithmetic, whether the same call gives the same bytes again, and whether it works at all.

#include "emulator.h"
#include "product.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

using namespace emulator;

namespace {

// cudnnStatus_t.
enum {
    ok = 0,
    not_initialised = 1001,
    bad_parameter = 2000,
    null_pointer = 2002,
    misaligned = 2003,
    too_small = 2006,
    mismatch = 2008,
    unsupported = 3000,
    unsupported_type = 3003,
    unsupported_layout = 3004,
    internal_error = 4000,
    allocation_failed = 4003,
    execution_failed = 5000,
};

// cudnnMathType_t. f32 is rounded to TF32 with the first two, to f16 with the third, and stays what it is with the last.
enum { default_math = 0, tensor_op_math = 1, conversion_math = 2, fma_math = 3 };

struct Handle {
    void *stream = nullptr;
    uint64_t context = context_number();
};

struct Tensor {
    Type type;
    int n = 0, c, h, w;
    size_t n_stride, c_stride, h_stride, w_stride;

    size_t offset(size_t in, size_t ic, size_t ih, size_t iw) const { return in * n_stride + ic * c_stride + ih * h_stride + iw * w_stride; }
    size_t bytes() const { return (offset(n - 1, c - 1, h - 1, w - 1) + 1) * size_of(type); }
    bool channels_last() const { return c_stride == 1 && (c > 1 || w_stride == 1); }
};

struct Filter {
    Type type;
    bool channels_last;
    int k = 0, c, r, s;

    size_t bytes() const { return size_t(k) * c * r * s * size_of(type); }
};

struct Convolution {
    int pad_h = 0, pad_w = 0, stride_h = 0, stride_w, dilation_h, dilation_w;
    int groups = 1, math = default_math;

    static int reach(int size, int pad, int filter, int stride, int dilation) {
        return (size + 2 * pad - dilation * (filter - 1) - 1) / stride + 1;
    }
};

struct Activation {
    int mode = 5; // cudnnActivationMode_t: 1 is ReLU, 5 the identity.
};

enum class Pass { forward, data, filter };
const char *const pass_names[] = {"cudnnConvolutionForward", "cudnnConvolutionBackwardData", "cudnnConvolutionBackwardFilter"};

// Which tensors an algorithm takes.
enum class For { all, nchw, nchw_3x3, none };

struct Algorithm {
    int number;
    For tensors;
    bool deterministic, workspace;
    float time; // In milliseconds, by FMA, as far as the emulator pretends.
};

// Of each pass. cuDNN numbers more than it has: of NHWC, only the implicit products and the first two of each pass backward.
const std::vector<Algorithm> algorithms[] = {
    // IMPLICIT_GEMM, IMPLICIT_PRECOMP_GEMM, GEMM, DIRECT, FFT, FFT_TILING, WINOGRAD, WINOGRAD_NONFUSED
    {{0, For::all, true, false, 0.09f}, {1, For::all, true, true, 0.05f}, {2, For::nchw_3x3, true, true, 0.2f}, {3, For::none, true, false, 0},
     {4, For::none, true, true, 0}, {5, For::none, true, true, 0}, {6, For::none, true, true, 0}, {7, For::nchw_3x3, true, true, 0.03f}},
    // 0, 1, FFT, FFT_TILING, WINOGRAD, WINOGRAD_NONFUSED
    {{0, For::all, false, false, 0.06f}, {1, For::all, true, true, 0.07f}, {2, For::none, true, true, 0}, {3, For::none, true, true, 0},
     {4, For::none, true, true, 0}, {5, For::nchw_3x3, true, true, 0.03f}},
    // 0, 1, FFT, 3, WINOGRAD, WINOGRAD_NONFUSED, FFT_TILING
    {{0, For::all, false, false, 0.06f}, {1, For::all, true, true, 0.08f}, {2, For::none, true, true, 0}, {3, For::nchw, false, true, 0.07f},
     {4, For::none, true, true, 0}, {5, For::nchw_3x3, true, true, 0.03f}, {6, For::none, true, true, 0}},
};
const char *const short_names[] = {"forward", "data", "filter"};

// What POINTWISE_EMULATOR_FAILING names, such as "forward:1,data:0": listed as any other, and not able to run.
bool fails(Pass pass, int number) {
    static const std::vector<std::pair<std::string, int>> named = [] {
        std::vector<std::pair<std::string, int>> named;
        const char *text = getenv("POINTWISE_EMULATOR_FAILING");
        for (std::string rest = text ? text : ""; !rest.empty();) {
            size_t end = std::min(rest.find(','), rest.size()), colon = rest.find(':');
            std::string name = rest.substr(0, std::min(colon, end)), digits = colon < end ? rest.substr(colon + 1, end - colon - 1) : "";
            bool known = std::find(std::begin(short_names), std::end(short_names), name) != std::end(short_names);
            if (!known || digits.empty() || digits.find_first_not_of("0123456789") != std::string::npos)
                stop("POINTWISE_EMULATOR_FAILING is \"%s\", not a list such as forward:1,data:0,filter:1", text);
            named.emplace_back(name, atoi(digits.c_str()));
            rest.erase(0, end + 1);
        }
        return named;
    }();
    return std::find(named.begin(), named.end(), std::make_pair(std::string(short_names[int(pass)]), number)) != named.end();
}

struct Problem {
    Pass pass;
    Tensor x, y;
    Filter w;
    Convolution convolution;

    size_t depth() const { return size_t(w.c) * w.r * w.s; }
    size_t rows() const { return size_t(y.n) * y.h * y.w; }

    int check() const {
        const char *name = pass_names[int(pass)];
        const Convolution &v = convolution;
        if (!x.n || !y.n || !w.k || !v.stride_h) return refuse(bad_parameter, "%s: a descriptor that was not set", name);
        if (x.type != y.type || x.type != w.type) return refuse(bad_parameter, "%s: tensors of different types", name);
        if (x.channels_last() != w.channels_last && x.c > 1 && x.h * x.w > 1 && w.r * w.s > 1)
            return refuse(bad_parameter, "%s: the input and the filters are of different layouts", name);
        if (x.c != w.c * v.groups || w.k % v.groups)
            return refuse(mismatch, "%s: %d channels, filters of %d, %d groups", name, x.c, w.c, v.groups);
        int h = Convolution::reach(x.h, v.pad_h, w.r, v.stride_h, v.dilation_h);
        int wide = Convolution::reach(x.w, v.pad_w, w.s, v.stride_w, v.dilation_w);
        if (y.n != x.n || y.c != w.k || y.h != h || y.w != wide)
            return refuse(mismatch, "%s: the output is (%d, %d, %d, %d), not (%d, %d, %d, %d)", name, y.n, y.c, y.h, y.w, x.n, w.k, h, wide);
        return ok;
    }

    bool supports(const Algorithm &algorithm) const {
        static const bool refuses_groups = getenv("POINTWISE_EMULATOR_GROUPS") && !strcmp(getenv("POINTWISE_EMULATOR_GROUPS"), "refused");
        if (refuses_groups && convolution.groups > 1) return false;
        switch (algorithm.tensors) {
        case For::all: return true;
        case For::nchw: return !x.channels_last();
        case For::nchw_3x3: return !x.channels_last() && w.r == 3 && w.s == 3 && x.type == Type::f32;
        case For::none: break;
        }
        return false;
    }

    // Depends on the arithmetic, so that asking before it is set gives too little.
    size_t workspace(const Algorithm &algorithm, int math) const {
        if (!algorithm.workspace) return 0;
        return (w.bytes() + 255) / 256 * 256 + 4096 * (math == fma_math ? 1 : math == default_math ? 2 : 3);
    }

    // The kinds of arithmetic that are listed: what the descriptor has and the default one, and what tensor cores make of the default.
    std::vector<int> kinds() const {
        bool f32 = x.type == Type::f32;
        switch (convolution.math) {
        case fma_math: return {default_math, fma_math};
        case tensor_op_math: return f32 ? std::vector<int>{tensor_op_math, default_math, fma_math} : std::vector<int>{tensor_op_math, default_math};
        default:
            if (f32) return {conversion_math, tensor_op_math, default_math, fma_math};
            return {tensor_op_math, default_math};
        }
    }

    const Algorithm *find(int number) const {
        for (const Algorithm &algorithm : algorithms[int(pass)])
            if (algorithm.number == number) return supports(algorithm) ? &algorithm : nullptr;
        return nullptr;
    }

    float rounded(float value) const {
        if (x.type != Type::f32 || convolution.math == fma_math) return value;
        return convolution.math == conversion_math ? f16(value) : tf32(value);
    }

    // Calls `f` with each place of the output's row's patch that is in the input, in the order of a filter's numbers, and the number's offset
    // in the input.
    template <class F> void each(size_t row, int group, F f) const {
        const Convolution &v = convolution;
        size_t column = row % y.w, line = row / y.w % y.h, image = row / y.w / y.h;
        for (int r = 0; r < w.r; r++) {
            long i = long(line) * v.stride_h - v.pad_h + r * v.dilation_h;
            if (i < 0 || i >= x.h) continue;
            for (int s = 0; s < w.s; s++) {
                long j = long(column) * v.stride_w - v.pad_w + s * v.dilation_w;
                if (j < 0 || j >= x.w) continue;
                size_t from = x.offset(image, size_t(group) * w.c, i, j);
                size_t place = w.channels_last ? (size_t(r) * w.s + s) * w.c : size_t(r) * w.s + s;
                size_t step = w.channels_last ? 1 : size_t(w.r) * w.s;
                for (int c = 0; c < w.c; c++) f(place + c * step, from + c * x.c_stride);
            }
        }
    }

    size_t y_offset(size_t row, size_t channel) const { return y.offset(row / y.w / y.h, channel, row / y.w % y.h, row % y.w); }

    std::string line(int algorithm) const {
        static const char *const kinds[] = {" tf32", " tf32", " f16", ""};
        char text[200];
        snprintf(text, sizeof text, "convolution %s x=%d,%d,%d,%d w=%d,%d,%d,%d pad=%d %s %s algorithm=%d%s", short_names[int(pass)], x.n, x.c, x.h, x.w,
                 w.k, w.c, w.r, w.s, convolution.pad_h, x.channels_last() ? "nhwc" : "nchw", name_of(x.type), algorithm,
                 x.type == Type::f32 ? kinds[convolution.math] : "");
        return text;
    }
};

constexpr size_t chunk = 512;

// Calls `f` with the number of some rows at a time, and how each of them is found.
template <class F> void in_chunks(size_t rows, bool reversed, F f) {
    for (size_t first = 0; first < rows; first += chunk)
        f(std::min(chunk, rows - first), [=](size_t i) { return reversed ? rows - 1 - first - i : first + i; });
}

// What is done to results of the forward pass on the way out.
struct Out {
    float alpha, beta;
    const void *z = nullptr; // Added with `z_scale`.
    float z_scale = 0;
    const void *bias = nullptr;
    Type bias_type = Type::f32;
    bool relu = false;
};

void forward(const Problem &p, bool reversed, const void *x, const void *w, void *y, Out out) {
    size_t depth = p.depth(), filters = p.w.k / p.convolution.groups;
    std::vector<float> patches(chunk * depth), weights(filters * depth), sums;
    for (int group = 0; group < p.convolution.groups; group++) {
        for (size_t i = 0; i < weights.size(); i++) weights[i] = p.rounded(load(p.w.type, w, group * weights.size() + i));
        in_chunks(p.rows(), reversed, [&](size_t count, auto row) {
            std::fill(patches.begin(), patches.end(), 0.0f);
            for (size_t i = 0; i < count; i++)
                p.each(row(i), group, [&](size_t place, size_t from) { patches[i * depth + place] = p.rounded(load(p.x.type, x, from)); });
            sums.assign(count * filters, 0.0f);
            product(
                count, filters, depth, [&](size_t i, size_t d) { return patches[i * depth + d]; },
                [&](size_t d, size_t k) { return weights[k * depth + d]; }, sums.data(), filters);
            for (size_t i = 0; i < count; i++)
                for (size_t k = 0; k < filters; k++) {
                    size_t channel = group * filters + k, at = p.y_offset(row(i), channel);
                    float value = out.alpha * sums[i * filters + k];
                    if (out.z) value += out.z_scale * load(p.y.type, out.z, at);
                    if (out.bias) value += load(out.bias_type, out.bias, channel);
                    if (out.relu) value = value > 0.0f ? value : value != value ? value : 0.0f;
                    if (out.beta != 0.0f) value += out.beta * load(p.y.type, y, at);
                    store(p.y.type, y, at, value);
                }
        });
    }
}

// Of the gradient of the output, the numbers of some rows.
template <class Row> void gather_y(const Problem &p, const void *dy, int group, size_t count, Row row, std::vector<float> &into) {
    size_t filters = p.w.k / p.convolution.groups;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < filters; k++)
            into[i * filters + k] = p.rounded(load(p.y.type, dy, p.y_offset(row(i), group * filters + k)));
}

void backward_data(const Problem &p, bool reversed, const void *w, const void *dy, void *dx, float alpha, float beta) {
    size_t depth = p.depth(), filters = p.w.k / p.convolution.groups;
    std::vector<float> gradients(chunk * filters), weights(filters * depth), patches;
    // Strides of the input may leave gaps: sums are as long as its memory.
    std::vector<float> sums(p.x.bytes() / size_of(p.x.type), 0.0f);
    for (int group = 0; group < p.convolution.groups; group++) {
        for (size_t i = 0; i < weights.size(); i++) weights[i] = p.rounded(load(p.w.type, w, group * weights.size() + i));
        in_chunks(p.rows(), reversed, [&](size_t count, auto row) {
            gather_y(p, dy, group, count, row, gradients);
            patches.assign(count * depth, 0.0f);
            product(
                count, depth, filters, [&](size_t i, size_t k) { return gradients[i * filters + k]; },
                [&](size_t k, size_t d) { return weights[k * depth + d]; }, patches.data(), depth);
            for (size_t i = 0; i < count; i++)
                p.each(row(i), group, [&](size_t place, size_t to) { sums[to] += patches[i * depth + place]; });
        });
    }
    for (int n = 0; n < p.x.n; n++)
        for (int i = 0; i < p.x.h; i++)
            for (int j = 0; j < p.x.w; j++)
                for (int c = 0; c < p.x.c; c++) {
                    size_t at = p.x.offset(n, c, i, j);
                    store(p.x.type, dx, at, alpha * sums[at] + (beta != 0.0f ? beta * load(p.x.type, dx, at) : 0.0f));
                }
}

void backward_filter(const Problem &p, bool reversed, const void *x, const void *dy, void *dw, float alpha, float beta) {
    size_t depth = p.depth(), filters = p.w.k / p.convolution.groups;
    std::vector<float> gradients(chunk * filters), patches(chunk * depth), sums;
    for (int group = 0; group < p.convolution.groups; group++) {
        sums.assign(filters * depth, 0.0f);
        in_chunks(p.rows(), reversed, [&](size_t count, auto row) {
            gather_y(p, dy, group, count, row, gradients);
            std::fill(patches.begin(), patches.end(), 0.0f);
            for (size_t i = 0; i < count; i++)
                p.each(row(i), group, [&](size_t place, size_t from) { patches[i * depth + place] = p.rounded(load(p.x.type, x, from)); });
            product(
                filters, depth, count, [&](size_t k, size_t i) { return gradients[i * filters + k]; },
                [&](size_t i, size_t d) { return patches[i * depth + d]; }, sums.data(), depth);
        });
        for (size_t i = 0; i < sums.size(); i++) {
            size_t at = group * sums.size() + i;
            store(p.w.type, dw, at, alpha * sums[i] + (beta != 0.0f ? beta * load(p.w.type, dw, at) : 0.0f));
        }
    }
}

int check_data(const char *name, const char *argument, const void *data, size_t bytes) {
    if (!data) return refuse(null_pointer, "%s: %s is null", name, argument);
    if (reinterpret_cast<uintptr_t>(data) % 16) return refuse(misaligned, "%s: %s is not on a multiple of 16 bytes", name, argument);
    return check_range(name, argument, data, bytes) ? ok : bad_parameter;
}

int check_workspace(const char *name, size_t needed, const void *workspace, size_t bytes) {
    if (bytes < needed) return refuse(too_small, "%s: a workspace of %zu bytes, but the algorithm needs %zu", name, bytes, needed);
    return needed ? check_data(name, "the workspace", workspace, bytes) : ok;
}

int check_handle(const char *name, const Handle *handle) {
    if (!handle) return refuse(not_initialised, "%s: no handle", name);
    if (handle->context != context_number()) return refuse(not_initialised, "%s: a handle of a context that was destroyed", name);
    return ok;
}

// The checks of all passes, then the work.
int run(Handle *handle, const Problem &p, int number, const void *x, const void *w, const void *y, void *workspace, size_t bytes,
        std::function<void(bool reversed)> work, const char *more = "") {
    const char *name = pass_names[int(p.pass)];
    if (int code = check_handle(name, handle)) return code;
    if (int code = p.check()) return code;
    const Algorithm *algorithm = p.find(number);
    if (!algorithm) return refuse(unsupported, "%s: algorithm %d is not for these tensors", name, number);
    size_t needed = p.workspace(*algorithm, p.convolution.math);
    if (int code = check_workspace(name, needed, workspace, bytes)) return code;
    if (int code = check_data(name, p.pass == Pass::data ? "dx" : "x", x, p.x.bytes())) return code;
    if (int code = check_data(name, p.pass == Pass::filter ? "dw" : "w", w, p.w.bytes())) return code;
    if (int code = check_data(name, p.pass == Pass::forward ? "y" : "dy", y, p.y.bytes())) return code;
    if (fails(p.pass, number)) {
        log("failing %s%s", p.line(number).c_str(), more);
        return refuse(execution_failed, "%s: algorithm %d fails, as POINTWISE_EMULATOR_FAILING says", name, number);
    }
    int code = submit(handle->stream, Node::kernel, p.line(number) + more, [=] {
        if (needed) memset(workspace, 0xff, needed);
        // An algorithm that is not deterministic goes the other way every other time.
        static std::atomic<unsigned> calls;
        work(!algorithm->deterministic && calls++ % 2);
    });
    return code ? execution_failed : ok;
}

struct Result {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

// Both ways to find an algorithm: the library's rules, which know no times, and by trying, which writes the result and needs its memory.
// What cannot be used comes last.
int list(Handle *handle, const Problem &p, int wanted, int *count, Result *results, bool tried, void *output, size_t output_bytes,
         size_t workspace) {
    std::string name = std::string(pass_names[int(p.pass)]) + (tried ? "'s search" : "'s list");
    if (int code = check_handle(name.c_str(), handle)) return code;
    if (wanted < 1 || !count || !results) return refuse(bad_parameter, "%s: no place for results", name.c_str());
    if (int code = p.check()) return code;
    if (tried) {
        if (int code = outside_of_capture(name.c_str(), handle->stream)) return refuse(execution_failed, "it failed with %d", code);
        if (output) {
            if (int code = check_data(name.c_str(), "the output", output, output_bytes)) return code;
            memset(output, 0xff, output_bytes);
        }
        log("search %s", p.line(-1).c_str());
    }
    static const float slower[] = {0.7f, 0.6f, 0.5f, 1.0f}; // Than FMA, by the kind of arithmetic.
    std::vector<Result> found, refused;
    for (const Algorithm &algorithm : algorithms[int(p.pass)]) {
        if (!p.supports(algorithm)) {
            // A search tries those by FFT, which want more memory than anybody gives them.
            bool huge = tried && algorithm.workspace && algorithm.number == 2;
            refused.push_back({algorithm.number, huge ? allocation_failed : unsupported, -1.0f, huge ? size_t(1) << 40 : 0, algorithm.deterministic,
                               p.convolution.math, {}});
            continue;
        }
        for (int math : p.kinds()) {
            Result result{algorithm.number, ok, algorithm.time * slower[math], p.workspace(algorithm, math), algorithm.deterministic, math, {}};
            if (tried && result.memory > workspace) {
                result.status = allocation_failed, result.time = -1.0f;
                refused.push_back(result);
            } else {
                found.push_back(result);
            }
        }
    }
    std::stable_sort(found.begin(), found.end(), [](const Result &a, const Result &b) { return a.time < b.time; });
    if (!tried)
        for (Result &result : found) result.time = -1.0f;
    found.insert(found.end(), refused.begin(), refused.end());
    *count = std::min<int>(wanted, found.size());
    std::copy_n(found.begin(), *count, results);
    return ok;
}

int workspace_size(const Problem &p, int number, size_t *bytes) {
    if (int code = p.check()) return code;
    const Algorithm *algorithm = p.find(number);
    if (!algorithm) return refuse(unsupported, "%s: algorithm %d is not for these tensors", pass_names[int(p.pass)], number);
    return *bytes = p.workspace(*algorithm, p.convolution.math), ok;
}

bool type_of(int code, Type *type) {
    if (code != 0 && code != 9) return false; // CUDNN_DATA_FLOAT, CUDNN_DATA_BFLOAT16
    *type = code == 0 ? Type::f32 : Type::bf16;
    return true;
}

float scalar(const void *value) { return *static_cast<const float *>(value); }

} // namespace

CUDA size_t cudnnGetVersion() { return 92100; }
CUDA size_t cudnnGetCudartVersion() { return 13000; }
CUDA int cudnnAdvVersionCheck() { return ok; }
CUDA int cudnnCnnVersionCheck() { return ok; }
CUDA int cudnnOpsVersionCheck() { return ok; }
CUDA const char *cudnnGetErrorString(int code) {
    switch (code) {
    case ok: return "CUDNN_STATUS_SUCCESS";
    case not_initialised: return "CUDNN_STATUS_NOT_INITIALIZED";
    case bad_parameter: return "CUDNN_STATUS_BAD_PARAM";
    case null_pointer: return "CUDNN_STATUS_BAD_PARAM_NULL_POINTER";
    case misaligned: return "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER";
    case too_small: return "CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT";
    case mismatch: return "CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH";
    case unsupported: return "CUDNN_STATUS_NOT_SUPPORTED";
    case unsupported_type: return "CUDNN_STATUS_NOT_SUPPORTED_DATA_TYPE";
    case unsupported_layout: return "CUDNN_STATUS_NOT_SUPPORTED_LAYOUT";
    case allocation_failed: return "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED";
    case execution_failed: return "CUDNN_STATUS_EXECUTION_FAILED";
    default: return "CUDNN_STATUS_INTERNAL_ERROR";
    }
}
CUDA void cudnnGetLastErrorString(char *message, size_t size) {
    if (size) snprintf(message, size, "%s", last_refusal());
}
CUDA int cudnnCreate(Handle **handle) {
    if (outside_of_capture("cudnnCreate", nullptr)) return internal_error;
    return *handle = new Handle, ok;
}
CUDA int cudnnDestroy(Handle *handle) {
    if (int code = check_handle("cudnnDestroy", handle)) return code;
    int code = synchronize_device("cudnnDestroy", "cudnnDestroy");
    return delete handle, code ? internal_error : ok;
}
CUDA int cudnnSetStream(Handle *handle, void *stream) { return handle->stream = stream, ok; }
CUDA int cudnnGetStream(Handle *handle, void **stream) { return *stream = handle->stream, ok; }

CUDA int cudnnCreateTensorDescriptor(Tensor **tensor) { return *tensor = new Tensor, ok; }
CUDA int cudnnDestroyTensorDescriptor(Tensor *tensor) { return delete tensor, ok; }
CUDA int cudnnSetTensor4dDescriptorEx(Tensor *tensor, int type, int n, int c, int h, int w, int n_stride, int c_stride, int h_stride, int w_stride) {
    if (n < 1 || c < 1 || h < 1 || w < 1) return refuse(bad_parameter, "a tensor (%d, %d, %d, %d)", n, c, h, w);
    if (!type_of(type, &tensor->type)) return refuse(unsupported_type, "a tensor of type %d", type);
    tensor->n = n, tensor->c = c, tensor->h = h, tensor->w = w;
    tensor->n_stride = n_stride, tensor->c_stride = c_stride, tensor->h_stride = h_stride, tensor->w_stride = w_stride;
    return ok;
}
CUDA int cudnnSetTensor4dDescriptor(Tensor *tensor, int format, int type, int n, int c, int h, int w) {
    if (format != 0 && format != 1) return refuse(unsupported_layout, "a tensor in format %d", format);
    if (format == 0) return cudnnSetTensor4dDescriptorEx(tensor, type, n, c, h, w, c * h * w, h * w, w, 1);
    return cudnnSetTensor4dDescriptorEx(tensor, type, n, c, h, w, c * h * w, 1, w * c, c);
}
CUDA int cudnnCreateFilterDescriptor(Filter **filter) { return *filter = new Filter, ok; }
CUDA int cudnnDestroyFilterDescriptor(Filter *filter) { return delete filter, ok; }
CUDA int cudnnSetFilter4dDescriptor(Filter *filter, int type, int format, int k, int c, int r, int s) {
    if (k < 1 || c < 1 || r < 1 || s < 1) return refuse(bad_parameter, "filters (%d, %d, %d, %d)", k, c, r, s);
    if (format != 0 && format != 1) return refuse(unsupported_layout, "filters in format %d", format);
    if (!type_of(type, &filter->type)) return refuse(unsupported_type, "filters of type %d", type);
    filter->channels_last = format == 1;
    filter->k = k, filter->c = c, filter->r = r, filter->s = s;
    return ok;
}
CUDA int cudnnCreateConvolutionDescriptor(Convolution **convolution) { return *convolution = new Convolution, ok; }
CUDA int cudnnDestroyConvolutionDescriptor(Convolution *convolution) { return delete convolution, ok; }
CUDA int cudnnSetConvolution2dDescriptor(Convolution *convolution, int pad_h, int pad_w, int stride_h, int stride_w, int dilation_h,
                                         int dilation_w, int mode, int compute) {
    if (pad_h < 0 || pad_w < 0 || stride_h < 1 || stride_w < 1 || dilation_h < 1 || dilation_w < 1) return bad_parameter;
    if (mode != 1) return refuse(unsupported, "a convolution that is not CUDNN_CROSS_CORRELATION");
    if (compute != 0) return refuse(unsupported_type, "a convolution that does not compute in f32");
    convolution->pad_h = pad_h, convolution->pad_w = pad_w, convolution->stride_h = stride_h, convolution->stride_w = stride_w;
    convolution->dilation_h = dilation_h, convolution->dilation_w = dilation_w;
    return ok;
}
CUDA int cudnnSetConvolutionMathType(Convolution *convolution, int math) {
    if (math < default_math || math > fma_math) return bad_parameter;
    return convolution->math = math, ok;
}
CUDA int cudnnGetConvolutionMathType(Convolution *convolution, int *math) { return *math = convolution->math, ok; }
CUDA int cudnnSetConvolutionGroupCount(Convolution *convolution, int groups) {
    if (groups < 1) return bad_parameter;
    return convolution->groups = groups, ok;
}
CUDA int cudnnGetConvolution2dForwardOutputDim(Convolution *v, Tensor *x, Filter *w, int *n, int *c, int *h, int *wide) {
    *n = x->n, *c = w->k;
    *h = Convolution::reach(x->h, v->pad_h, w->r, v->stride_h, v->dilation_h);
    *wide = Convolution::reach(x->w, v->pad_w, w->s, v->stride_w, v->dilation_w);
    return ok;
}

CUDA int cudnnGetConvolutionForwardAlgorithmMaxCount(Handle *, int *count) { return *count = 4 * algorithms[0].size(), ok; }
CUDA int cudnnGetConvolutionBackwardDataAlgorithmMaxCount(Handle *, int *count) { return *count = 4 * algorithms[1].size(), ok; }
CUDA int cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(Handle *, int *count) { return *count = 4 * algorithms[2].size(), ok; }

CUDA int cudnnGetConvolutionForwardAlgorithm_v7(Handle *handle, Tensor *x, Filter *w, Convolution *v, Tensor *y, int wanted, int *count,
                                                Result *results) {
    return list(handle, {Pass::forward, *x, *y, *w, *v}, wanted, count, results, false, nullptr, 0, 0);
}
CUDA int cudnnGetConvolutionBackwardDataAlgorithm_v7(Handle *handle, Filter *w, Tensor *dy, Convolution *v, Tensor *dx, int wanted, int *count,
                                                     Result *results) {
    return list(handle, {Pass::data, *dx, *dy, *w, *v}, wanted, count, results, false, nullptr, 0, 0);
}
CUDA int cudnnGetConvolutionBackwardFilterAlgorithm_v7(Handle *handle, Tensor *x, Tensor *dy, Convolution *v, Filter *dw, int wanted, int *count,
                                                       Result *results) {
    return list(handle, {Pass::filter, *x, *dy, *dw, *v}, wanted, count, results, false, nullptr, 0, 0);
}
CUDA int cudnnFindConvolutionForwardAlgorithmEx(Handle *handle, Tensor *x, const void *, Filter *w, const void *, Convolution *v, Tensor *y,
                                                void *to, int wanted, int *count, Result *results, void *, size_t workspace) {
    return list(handle, {Pass::forward, *x, *y, *w, *v}, wanted, count, results, true, to, y->bytes(), workspace);
}
CUDA int cudnnFindConvolutionBackwardDataAlgorithmEx(Handle *handle, Filter *w, const void *, Tensor *dy, const void *, Convolution *v,
                                                     Tensor *dx, void *to, int wanted, int *count, Result *results, void *, size_t workspace) {
    return list(handle, {Pass::data, *dx, *dy, *w, *v}, wanted, count, results, true, to, dx->bytes(), workspace);
}
CUDA int cudnnFindConvolutionBackwardFilterAlgorithmEx(Handle *handle, Tensor *x, const void *, Tensor *dy, const void *, Convolution *v,
                                                       Filter *dw, void *to, int wanted, int *count, Result *results, void *,
                                                       size_t workspace) {
    return list(handle, {Pass::filter, *x, *dy, *dw, *v}, wanted, count, results, true, to, dw->bytes(), workspace);
}
CUDA int cudnnFindConvolutionForwardAlgorithm(Handle *handle, Tensor *x, Filter *w, Convolution *v, Tensor *y, int wanted, int *count,
                                              Result *results) {
    return list(handle, {Pass::forward, *x, *y, *w, *v}, wanted, count, results, true, nullptr, 0, ~size_t(0));
}
CUDA int cudnnFindConvolutionBackwardDataAlgorithm(Handle *handle, Filter *w, Tensor *dy, Convolution *v, Tensor *dx, int wanted, int *count,
                                                   Result *results) {
    return list(handle, {Pass::data, *dx, *dy, *w, *v}, wanted, count, results, true, nullptr, 0, ~size_t(0));
}
CUDA int cudnnFindConvolutionBackwardFilterAlgorithm(Handle *handle, Tensor *x, Tensor *dy, Convolution *v, Filter *dw, int wanted, int *count,
                                                     Result *results) {
    return list(handle, {Pass::filter, *x, *dy, *dw, *v}, wanted, count, results, true, nullptr, 0, ~size_t(0));
}
CUDA int cudnnGetConvolutionForwardWorkspaceSize(Handle *, Tensor *x, Filter *w, Convolution *v, Tensor *y, int algorithm, size_t *bytes) {
    return workspace_size({Pass::forward, *x, *y, *w, *v}, algorithm, bytes);
}
CUDA int cudnnGetConvolutionBackwardDataWorkspaceSize(Handle *, Filter *w, Tensor *dy, Convolution *v, Tensor *dx, int algorithm, size_t *bytes) {
    return workspace_size({Pass::data, *dx, *dy, *w, *v}, algorithm, bytes);
}
CUDA int cudnnGetConvolutionBackwardFilterWorkspaceSize(Handle *, Tensor *x, Tensor *dy, Convolution *v, Filter *dw, int algorithm,
                                                        size_t *bytes) {
    return workspace_size({Pass::filter, *x, *dy, *dw, *v}, algorithm, bytes);
}

CUDA int cudnnConvolutionForward(Handle *handle, const void *alpha, Tensor *x_shape, const void *x, Filter *w_shape, const void *w,
                                 Convolution *v, int algorithm, void *workspace, size_t bytes, const void *beta, Tensor *y_shape, void *y) {
    Problem p{Pass::forward, *x_shape, *y_shape, *w_shape, *v};
    Out out{scalar(alpha), scalar(beta)};
    return run(handle, p, algorithm, x, w, y, workspace, bytes, [=](bool reversed) { forward(p, reversed, x, w, y, out); });
}
CUDA int cudnnConvolutionBackwardData(Handle *handle, const void *alpha, Filter *w_shape, const void *w, Tensor *dy_shape, const void *dy,
                                      Convolution *v, int algorithm, void *workspace, size_t bytes, const void *beta, Tensor *dx_shape,
                                      void *dx) {
    Problem p{Pass::data, *dx_shape, *dy_shape, *w_shape, *v};
    float by = scalar(alpha), old = scalar(beta);
    return run(handle, p, algorithm, dx, w, dy, workspace, bytes,
               [=](bool reversed) { backward_data(p, reversed, w, dy, dx, by, old); });
}
CUDA int cudnnConvolutionBackwardFilter(Handle *handle, const void *alpha, Tensor *x_shape, const void *x, Tensor *dy_shape, const void *dy,
                                        Convolution *v, int algorithm, void *workspace, size_t bytes, const void *beta, Filter *dw_shape,
                                        void *dw) {
    Problem p{Pass::filter, *x_shape, *dy_shape, *dw_shape, *v};
    float by = scalar(alpha), old = scalar(beta);
    return run(handle, p, algorithm, x, dw, dy, workspace, bytes,
               [=](bool reversed) { backward_filter(p, reversed, x, dy, dw, by, old); });
}

CUDA int cudnnCreateActivationDescriptor(Activation **activation) { return *activation = new Activation, ok; }
CUDA int cudnnDestroyActivationDescriptor(Activation *activation) { return delete activation, ok; }
CUDA int cudnnSetActivationDescriptor(Activation *activation, int mode, int, double) {
    if (mode != 1 && mode != 5) return refuse(unsupported, "activation %d", mode);
    return activation->mode = mode, ok;
}
CUDA int cudnnConvolutionBiasActivationForward(Handle *handle, const void *alpha, Tensor *x_shape, const void *x, Filter *w_shape,
                                               const void *w, Convolution *v, int algorithm, void *workspace, size_t bytes,
                                               const void *z_scale, Tensor *z_shape, const void *z, Tensor *bias_shape, const void *bias,
                                               Activation *activation, Tensor *y_shape, void *y) {
    Problem p{Pass::forward, *x_shape, *y_shape, *w_shape, *v};
    const char *name = "cudnnConvolutionBiasActivationForward";
    Out out{scalar(alpha), 0.0f};
    out.z_scale = scalar(z_scale);
    if (out.z_scale != 0.0f) {
        out.z = z;
        if (z_shape->bytes() != y_shape->bytes()) return refuse(mismatch, "%s: z is not like y", name);
        if (int code = check_data(name, "z", z, z_shape->bytes())) return code;
    }
    if (int code = check_data(name, "the bias", bias, bias_shape->bytes())) return code;
    if (bias_shape->c != y_shape->c || bias_shape->n * bias_shape->h * bias_shape->w != 1) return refuse(mismatch, "%s: a bias of %d channels", name, bias_shape->c);
    out.bias = bias;
    out.bias_type = bias_shape->type;
    out.relu = activation->mode == 1;
    return run(handle, p, algorithm, x, w, y, workspace, bytes, [=](bool reversed) { forward(p, reversed, x, w, y, out); },
               out.relu ? " bias relu" : " bias");
}
