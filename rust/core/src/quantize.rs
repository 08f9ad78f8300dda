//! Vectors to codes of b bits, written as bit planes: with t = (x - threshold) * 128 / radius,
//! code = clamp(2^(b-1) - 1 + ceil(2^(b-8) * t), 0, 2^b - 1). The top bits of a code are the code of fewer bits.

use multiversion::multiversion;

use crate::planes::{self, MAX_PLANES};
use crate::pool;
use crate::vectors::{BadRow, Reader, Vectors};

/// The smallest divisor of 128 / radius: keeps the scale finite where a dimension has no spread.
const LEAST_RADIUS: f32 = f32::from_bits(7 << 23); // 2^-120

/// 2^23. Added to a small whole number, it leaves that number in the low bits of the sum.
const WHOLE: f32 = 8_388_608.0;

fn scale(radius: f32) -> f32 {
    128.0 / radius.max(LEAST_RADIUS)
}

/// Writes the top `planes` planes of the codes of each row into `out`.
pub fn quantize(
    vectors: &Vectors,
    threshold: &[f32],
    radius: &[f32],
    planes: usize,
    cosine: bool,
    out: &mut [u8],
) -> Result<(), BadRow> {
    let scales: Vec<f32> = radius.iter().map(|&radius| scale(radius)).collect();
    let width = planes::width(threshold.len());
    pool::for_row_chunks(vectors.row_bytes(), planes * width, out, |first, out| {
        let mut reader = Reader::new(vectors, cosine);
        let mut codes = vec![0; 8 * width];
        for (offset, out) in out.chunks_exact_mut(planes * width).enumerate() {
            let row = reader.row(first + offset)?;
            row_codes(row, threshold, &scales, &mut codes);
            planes::pack(&codes, planes.min(8), out);
            if planes > 8 {
                row_second_bytes(row, threshold, &scales, &mut codes);
                planes::pack(&codes, planes - 8, &mut out[8 * width..]);
            }
        }
        Ok(())
    })
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn row_codes(row: &[f32], threshold: &[f32], scales: &[f32], codes: &mut [u8]) {
    for (((code, &x), &threshold), &scale) in codes.iter_mut().zip(row).zip(threshold).zip(scales) {
        *code = code_of::<8>(x - threshold, scale) as u8;
    }
}

/// Writes the bits of codes of MAX_PLANES bits that follow the first eight, at the top of a byte.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn row_second_bytes(row: &[f32], threshold: &[f32], scales: &[f32], bytes: &mut [u8]) {
    for (((byte, &x), &threshold), &scale) in bytes.iter_mut().zip(row).zip(threshold).zip(scales) {
        *byte = (code_of::<MAX_PLANES>(x - threshold, scale) << (16 - MAX_PLANES)) as u8;
    }
}

/// The code, in the low BITS bits, of a difference from the threshold. The top bit of the code of a positive difference
/// is set even if the product underflows, so that it is exactly [x > threshold].
#[inline(always)]
fn code_of<const BITS: usize>(difference: f32, scale: f32) -> u32 {
    let half = (1 << (BITS - 1)) as f32;
    let least = if difference > 0.0 { 1.0 } else { 1.0 - half };
    let step = (difference * scale * (half / 128.0)).ceil();
    let step = if step > least { step } else { least };
    let step = if step < half { step } else { half };
    (step + (WHOLE + half - 1.0)).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(difference: f32, radius: f32) -> u8 {
        code_of::<8>(difference, scale(radius)) as u8
    }

    #[test]
    fn the_top_bits_of_a_long_code_are_the_short_code() {
        for difference in (-1100..=1100).map(|n| n as f32 / 1024.0).chain([f32::MIN, f32::MAX, f32::from_bits(1)]) {
            for radius in [1.0, 0.3, 0.0, f32::MAX] {
                let long = code_of::<MAX_PLANES>(difference, scale(radius)) % (1 << MAX_PLANES);
                assert_eq!(long >> (MAX_PLANES - 8), u32::from(code(difference, radius)));
            }
        }
    }

    #[test]
    fn codes_step_at_multiples_of_radius_over_128() {
        let found: Vec<u8> = [-1.0, -0.992, -0.0078125, -0.0, 0.0, 0.001, 0.0078125, 0.008, 0.99, 1.0]
            .map(|difference| code(difference, 1.0))
            .to_vec();
        assert_eq!(found, [0, 1, 126, 127, 127, 128, 128, 129, 254, 255]);
    }

    #[test]
    fn extremes_clip() {
        assert_eq!(code(f32::NEG_INFINITY, 1.0), 0);
        assert_eq!(code(f32::INFINITY, f32::MAX), 255);
        assert_eq!(code(f32::MAX, 0.0), 255);
    }

    #[test]
    fn the_top_bit_survives_underflow() {
        let tiny = f32::from_bits(1);
        assert_eq!(tiny * scale(f32::MAX), 0.0);
        assert_eq!(code(tiny, f32::MAX), 128);
        assert_eq!(code(-tiny, f32::MAX), 127);
    }
}
