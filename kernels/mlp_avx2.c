/* The path for CPUs with AVX2 and FMA. Only this file is compiled for them, so nothing in it may be
 * called before the CPU was asked. */
#include "kernels/arithmetic.h"
#include "kernels/mlp.h"

#include <immintrin.h>

#define LANES           8u
#define TILE_BLOCKS     2u /* 8 sums: enough to hide fma's latency twice per cycle */
#define TILE_ROWS       2u
#define TILE_ROW_BLOCKS 1u
#define TILE_SUMS       2
#define PATH            bus_mlp_avx2
#define PATH_NAME       "avx2"
#define PATH_ID         BUS_ENGINE_AVX2

typedef __m256 vector;

static BUS_ALWAYS_INLINE vector v_set(float x)
{
  return _mm256_set1_ps(x);
}

static BUS_ALWAYS_INLINE vector v_load(const float *x)
{
  return _mm256_loadu_ps(x);
}

static BUS_ALWAYS_INLINE vector v_load_some(const float *x, uint32_t count)
{
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(x, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane));
}

static BUS_ALWAYS_INLINE void v_store(float *x, vector a)
{
  _mm256_storeu_ps(x, a);
}

static BUS_ALWAYS_INLINE float v_first(vector a)
{
  return _mm256_cvtss_f32(a);
}

static BUS_ALWAYS_INLINE vector v_add(vector a, vector b)
{
  return _mm256_add_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_sub(vector a, vector b)
{
  return _mm256_sub_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_mul(vector a, vector b)
{
  return _mm256_mul_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_div(vector a, vector b)
{
  return _mm256_div_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_fma(vector a, vector b, vector c)
{
  return _mm256_fmadd_ps(a, b, c);
}

static BUS_ALWAYS_INLINE vector v_min(vector a, vector b)
{
  return _mm256_min_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_max(vector a, vector b)
{
  return _mm256_max_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_number(vector a)
{
  return _mm256_and_ps(a, _mm256_cmp_ps(a, a, _CMP_ORD_Q));
}

static BUS_ALWAYS_INLINE vector v_magnitude(vector a)
{
  return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

static BUS_ALWAYS_INLINE vector v_with_sign(vector magnitude, vector sign)
{
  return _mm256_or_ps(magnitude, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}

static BUS_ALWAYS_INLINE vector v_power(vector a)
{
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(a), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f800000)));
}

#include "kernels/mlp_vector.inc"
