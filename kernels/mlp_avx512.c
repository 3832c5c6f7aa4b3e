/* The path for CPUs with AVX-512F. Only this file is compiled for them, so nothing in it may be
 * called before the CPU was asked. */
#include "kernels/arithmetic.h"
#include "kernels/mlp.h"

#include <immintrin.h>

#define LANES           16u
#define TILE_BLOCKS     4u /* 16 sums of 32 registers; one broadcast serves four blocks */
#define TILE_ROWS       2u
#define TILE_ROW_BLOCKS 2u
#define TILE_SUMS       4
#define PATH            bus_mlp_avx512
#define PATH_NAME       "avx512"
#define PATH_ID         BUS_ENGINE_AVX512

typedef __m512 vector;

static BUS_ALWAYS_INLINE vector v_set(float x)
{
  return _mm512_set1_ps(x);
}

static BUS_ALWAYS_INLINE vector v_load(const float *x)
{
  return _mm512_loadu_ps(x);
}

static BUS_ALWAYS_INLINE vector v_load_some(const float *x, uint32_t count)
{
  return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), x);
}

static BUS_ALWAYS_INLINE void v_store(float *x, vector a)
{
  _mm512_storeu_ps(x, a);
}

static BUS_ALWAYS_INLINE float v_first(vector a)
{
  return _mm512_cvtss_f32(a);
}

static BUS_ALWAYS_INLINE vector v_add(vector a, vector b)
{
  return _mm512_add_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_sub(vector a, vector b)
{
  return _mm512_sub_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_mul(vector a, vector b)
{
  return _mm512_mul_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_div(vector a, vector b)
{
  return _mm512_div_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_fma(vector a, vector b, vector c)
{
  return _mm512_fmadd_ps(a, b, c);
}

static BUS_ALWAYS_INLINE vector v_min(vector a, vector b)
{
  return _mm512_min_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_max(vector a, vector b)
{
  return _mm512_max_ps(a, b);
}

static BUS_ALWAYS_INLINE vector v_number(vector a)
{
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a);
}

/* The bitwise operations on floats belong to AVX-512DQ; those on integers do the same. */
static BUS_ALWAYS_INLINE vector v_magnitude(vector a)
{
  const __m512i bits = _mm512_castps_si512(a);
  return _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
}

static BUS_ALWAYS_INLINE vector v_with_sign(vector magnitude, vector sign)
{
  const __m512i mask = _mm512_set1_epi32((int)0x80000000u);
  const __m512i bits = _mm512_and_si512(_mm512_castps_si512(sign), mask);
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), bits));
}

static BUS_ALWAYS_INLINE vector v_power(vector a)
{
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(a), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f800000)));
}

#include "kernels/mlp_vector.inc"
