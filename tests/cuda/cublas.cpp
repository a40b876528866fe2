// cuBLAS, libcublas.so.13: products of matrices in column-major order, f32 and bf16.

#include "emulator.h"
#include "product.h"

#include <cstdio>

using namespace emulator;

namespace {

// cublasStatus_t.
enum { ok = 0, not_initialised = 1, allocation_failed = 3, bad_value = 7, execution_failed = 13, internal_error = 14, unsupported = 15 };

struct Handle {
    void *stream = nullptr;
    unsigned math = 0; // cublasMath_t: a mode in the low bits, and flags.
    int pointers = 0;  // 0: alpha and beta are on the host.
    uint64_t context = context_number();
};

// CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION
constexpr unsigned f32_sums = 16;

// Into how many pieces the sums of a product are split: where there are few tiles of results and much to add, cuBLAS has several blocks
// work on one tile, each on a piece of the depth, and may add the pieces in the type of the results.
int pieces_of(int m, int n, int k) {
    long tiles = long(m + 127) / 128 * ((n + 127) / 128);
    return tiles <= 16 && k >= 1024 ? std::min(k / 256, 16) : 1;
}

int check_handle(const char *name, const Handle *handle) {
    if (!handle) return refuse(not_initialised, "%s: no handle", name);
    if (handle->context != context_number()) return refuse(not_initialised, "%s: a handle of a context that was destroyed", name);
    return ok;
}

bool type_of(int code, Type *type) {
    if (code != 0 && code != 14) return false; // CUDA_R_32F, CUDA_R_16BF
    *type = code == 0 ? Type::f32 : Type::bf16;
    return true;
}

// What becomes of f32 operands.
enum class Rounding { none, tf32, bf16 };

float to_bf16(float x) {
    uint16_t bits;
    store(Type::bf16, &bits, 0, x);
    return load(Type::bf16, &bits, 0);
}

struct Matrix {
    const void *data;
    Type type;
    size_t leading;
    long long stride;
    bool transposed;
    Rounding rounding;

    float at(size_t row, size_t column) const {
        float value = load(type, data, transposed ? column + row * leading : row + column * leading);
        return rounding == Rounding::none ? value : rounding == Rounding::tf32 ? tf32(value) : to_bf16(value);
    }
};

int gemm(const char *call, Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const void *a, int a_type, int lda,
         long long stride_a, const void *b, int b_type, int ldb, long long stride_b, const float *beta, void *c, int c_type, int ldc,
         long long stride_c, int batch, int compute) {
    if (int code = check_handle(call, handle)) return code;
    Type type_a, type_b, type_c;
    if (!type_of(a_type, &type_a) || !type_of(b_type, &type_b) || !type_of(c_type, &type_c) || type_a != type_b ||
        (type_a == Type::f32 && type_c != Type::f32))
        return refuse(unsupported, "%s: types %d, %d, %d", call, a_type, b_type, c_type);
    // CUBLAS_COMPUTE_32F, _32F_PEDANTIC, _32F_FAST_16BF, _32F_FAST_TF32
    if (compute != 68 && compute != 69 && compute != 75 && compute != 77) return refuse(unsupported, "%s: compute type %d", call, compute);
    if (handle->pointers) return refuse(unsupported, "%s: alpha and beta on the device", call);
    if (m < 0 || n < 0 || k < 0 || batch < 0 || transa > 2 || transb > 2 || lda < std::max(1, transa ? k : m) ||
        ldb < std::max(1, transb ? n : k) || ldc < std::max(1, m))
        return refuse(bad_value, "%s: m %d, n %d, k %d with leading dimensions %d, %d, %d", call, m, n, k, lda, ldb, ldc);
    if (!m || !n || !batch) return ok;
    auto check = [&](const char *name, const void *data, Type type, long rows, long columns, long leading, long long stride) -> int {
        size_t length = (batch - 1) * stride + (columns - 1) * leading + rows;
        if (reinterpret_cast<uintptr_t>(data) % size_of(type)) return refuse(bad_value, "%s: %s is misaligned", call, name);
        return check_range(call, name, data, length * size_of(type)) ? ok : bad_value;
    };
    if (int code = k ? check("A", a, type_a, transa ? k : m, transa ? m : k, lda, stride_a) : ok) return code;
    if (int code = k ? check("B", b, type_b, transb ? n : k, transb ? k : n, ldb, stride_b) : ok) return code;
    if (int code = check("C", c, type_c, m, n, ldc, stride_c)) return code;
    bool fast = compute == 77 || (compute == 68 && (handle->math & 15) == 3); // CUBLAS_TF32_TENSOR_OP_MATH
    Rounding rounding = type_a == Type::bf16 ? Rounding::none : compute == 75 ? Rounding::bf16 : fast ? Rounding::tf32 : Rounding::none;
    Matrix left{a, type_a, size_t(lda), stride_a, transa != 0, rounding}, right{b, type_b, size_t(ldb), stride_b, transb != 0, rounding};
    float by = *alpha, old = *beta;
    bool reduced = type_c == Type::bf16 && !(handle->math & f32_sums);
    int pieces = reduced ? pieces_of(m, n, k) : 1;
    char line[200];
    snprintf(line, sizeof line, "gemm %c%c m=%d n=%d k=%d batch=%d %s->%s%s%s", transa ? 't' : 'n', transb ? 't' : 'n', m, n, k, batch,
             name_of(type_a), name_of(type_c), rounding == Rounding::tf32 ? " tf32" : rounding == Rounding::bf16 ? " bf16" : "",
             pieces > 1 ? (" pieces=" + std::to_string(pieces)).c_str() : "");
    int code = submit(handle->stream, Node::kernel, line, [=] {
        std::vector<float> sums, piece;
        for (int i = 0; i < batch; i++) {
            Matrix l = left, r = right;
            l.data = static_cast<const char *>(a) + i * stride_a * size_of(type_a);
            r.data = static_cast<const char *>(b) + i * stride_b * size_of(type_b);
            void *to = static_cast<char *>(c) + i * stride_c * size_of(type_c);
            sums.assign(size_t(m) * n, 0.0f);
            for (int part = 0; part < pieces; part++) {
                size_t first = size_t(k) * part / pieces, behind = size_t(k) * (part + 1) / pieces;
                piece.assign(pieces > 1 ? sums.size() : 0, 0.0f);
                // Rows of the product are columns of the matrix in memory.
                product(
                    n, m, behind - first, [&](size_t j, size_t p) { return r.at(first + p, j); },
                    [&](size_t p, size_t i) { return l.at(i, first + p); }, pieces > 1 ? piece.data() : sums.data(), m);
                for (size_t i = 0; i < piece.size(); i++) sums[i] = to_bf16(sums[i] + to_bf16(piece[i]));
            }
            for (size_t column = 0; column < size_t(n); column++)
                for (size_t row = 0; row < size_t(m); row++) {
                    size_t at = row + column * ldc;
                    float sum = by * sums[row + column * m];
                    store(type_c, to, at, old == 0.0f ? sum : sum + old * load(type_c, to, at));
                }
        }
    });
    return code ? execution_failed : ok;
}

} // namespace

CUDA int cublasCreate_v2(Handle **handle) {
    if (outside_of_capture("cublasCreate", nullptr)) return allocation_failed;
    return *handle = new Handle, ok;
}
CUDA int cublasDestroy_v2(Handle *handle) {
    if (int code = check_handle("cublasDestroy", handle)) return code;
    int code = synchronize_device("cublasDestroy", "cublasDestroy");
    return delete handle, code ? internal_error : ok;
}
CUDA int cublasSetStream_v2(Handle *handle, void *stream) { return handle->stream = stream, ok; }
CUDA int cublasGetStream_v2(Handle *handle, void **stream) { return *stream = handle->stream, ok; }
CUDA int cublasSetWorkspace_v2(Handle *, void *workspace, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(workspace) % 256) return refuse(bad_value, "cublasSetWorkspace: a misaligned workspace");
    return !bytes || check_range("cublasSetWorkspace", "the workspace", workspace, bytes) ? ok : bad_value;
}
CUDA int cublasSetMathMode(Handle *handle, unsigned mode) {
    if ((mode & 15) > 4 || mode & ~(15 | f32_sums)) return refuse(bad_value, "cublasSetMathMode: mode %#x", mode);
    return handle->math = mode, ok;
}
CUDA int cublasGetMathMode(Handle *handle, unsigned *mode) { return *mode = handle->math, ok; }
CUDA int cublasSetPointerMode_v2(Handle *handle, int mode) { return handle->pointers = mode, ok; }
CUDA int cublasGetPointerMode_v2(Handle *handle, int *mode) { return *mode = handle->pointers, ok; }
CUDA int cublasSetAtomicsMode(Handle *, int) { return ok; }
CUDA int cublasGetVersion_v2(Handle *, int *version) { return *version = 130000, ok; }
CUDA const char *cublasGetStatusName(int) { return "an error of the emulator's cuBLAS"; }
CUDA const char *cublasGetStatusString(int) { return "an error of the emulator's cuBLAS"; }

CUDA int cublasSgemm_v2(Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const float *a, int lda, const float *b,
                        int ldb, const float *beta, float *c, int ldc) {
    return gemm("cublasSgemm", handle, transa, transb, m, n, k, alpha, a, 0, lda, 0, b, 0, ldb, 0, beta, c, 0, ldc, 0, 1, 68);
}
CUDA int cublasSgemmStridedBatched(Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const float *a, int lda,
                                   long long stride_a, const float *b, int ldb, long long stride_b, const float *beta, float *c, int ldc,
                                   long long stride_c, int batch) {
    return gemm("cublasSgemmStridedBatched", handle, transa, transb, m, n, k, alpha, a, 0, lda, stride_a, b, 0, ldb, stride_b, beta, c, 0, ldc,
                stride_c, batch, 68);
}
CUDA int cublasGemmEx(Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const void *a, int a_type, int lda,
                      const void *b, int b_type, int ldb, const float *beta, void *c, int c_type, int ldc, int compute, int) {
    return gemm("cublasGemmEx", handle, transa, transb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0, 1,
                compute);
}
CUDA int cublasGemmStridedBatchedEx(Handle *handle, int transa, int transb, int m, int n, int k, const float *alpha, const void *a, int a_type,
                                    int lda, long long stride_a, const void *b, int b_type, int ldb, long long stride_b, const float *beta,
                                    void *c, int c_type, int ldc, long long stride_c, int batch, int compute, int) {
    return gemm("cublasGemmStridedBatchedEx", handle, transa, transb, m, n, k, alpha, a, a_type, lda, stride_a, b, b_type, ldb, stride_b, beta,
                c, c_type, ldc, stride_c, batch, compute);
}
