//! Vectors to codes: code = clamp(127 + ceil((x - threshold) * 128 / radius), 0, 255), written as bit planes.

use multiversion::multiversion;

use crate::planes;
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
            row_codes(reader.row(first + offset)?, threshold, &scales, &mut codes);
            planes::pack(&codes, planes, out);
        }
        Ok(())
    })
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn row_codes(row: &[f32], threshold: &[f32], scales: &[f32], codes: &mut [u8]) {
    for (((code, &x), &threshold), &scale) in codes.iter_mut().zip(row).zip(threshold).zip(scales) {
        *code = code_of(x - threshold, scale);
    }
}

/// The code of a difference from the threshold. The code of a positive difference is at least 128 even if the product
/// underflows, so that the top bit is exactly [x > threshold].
#[inline(always)]
fn code_of(difference: f32, scale: f32) -> u8 {
    let least = if difference > 0.0 { 1.0 } else { -127.0 };
    let step = (difference * scale).ceil();
    let step = if step > least { step } else { least };
    let step = if step < 128.0 { step } else { 128.0 };
    (step + (WHOLE + 127.0)).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(difference: f32, radius: f32) -> u8 {
        code_of(difference, scale(radius))
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
