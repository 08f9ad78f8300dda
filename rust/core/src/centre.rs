//! Vectors minus the threshold: what is stored in an engine that quantizes by the sign of each stored value.

use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;

use crate::pool;
use crate::vectors::{self, BadRow, Reader, Vectors};

/// Writes x - threshold of each row into `out`, after normalizing the row if `cosine`. With `half`, results are rounded
/// to float16; a positive difference that would round to zero becomes the smallest positive float16, so that its sign
/// bit is kept.
pub fn centre(vectors: &Vectors, threshold: &[f32], cosine: bool, half: bool, out: &mut [f32]) -> Result<(), BadRow> {
    let dimensions = threshold.len();
    let largest = if half { f32::from(f16::MAX) } else { f32::MAX };
    pool::for_row_chunks(vectors.row_bytes(), dimensions, out, |first, out| {
        let mut reader = Reader::new(vectors, cosine);
        let mut rounded = vec![f16::ZERO; if half { dimensions } else { 0 }];
        for (offset, out) in out.chunks_exact_mut(dimensions).enumerate() {
            let row = first + offset;
            subtract(reader.row(row)?, threshold, out);
            if vectors::greatest_magnitude(out) > vectors::magnitude(largest) {
                return Err(BadRow { row, reason: too_large(out, largest) });
            }
            if half {
                rounded.convert_from_f32_slice(out);
                keep_signs(out, &mut rounded);
                rounded.convert_to_f32_slice(out);
            }
        }
        Ok(())
    })
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn subtract(row: &[f32], threshold: &[f32], out: &mut [f32]) {
    for ((out, x), t) in out.iter_mut().zip(row).zip(threshold) {
        *out = x - t;
    }
}

/// Replaces zeros that were rounded from positive numbers by the smallest positive float16.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn keep_signs(exact: &[f32], rounded: &mut [f16]) {
    for (x, rounded) in exact.iter().zip(rounded) {
        let lost = u16::from(*x > 0.0) & u16::from(rounded.to_bits() == 0);
        *rounded = f16::from_bits(rounded.to_bits() | lost);
    }
}

fn too_large(row: &[f32], largest: f32) -> String {
    let dimension = row.iter().position(|x| x.abs() > largest).unwrap_or_default();
    format!(
        "dimension {dimension} is {} from its threshold, and no more than {largest:e} is kept; scale the vectors or use \
         rescore float32",
        row[dimension]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::Elements;

    fn centred(row: &[f32], threshold: &[f32], half: bool) -> Result<Vec<f32>, BadRow> {
        let mut out = vec![0.0; row.len()];
        centre(&Vectors::new(Elements::F32(row), row.len(), row.len()), threshold, false, half, &mut out)?;
        Ok(out)
    }

    #[test]
    fn the_threshold_is_subtracted() {
        assert_eq!(centred(&[1.0, 0.1], &[0.25, 0.1], false).unwrap(), [0.75, 0.0]);
    }

    #[test]
    fn a_difference_rounded_to_zero_keeps_its_sign_bit() {
        let smallest = 2f32.powi(-24);
        assert_eq!(centred(&[1e-30, -1e-30, 0.0, 0.1], &[0.0; 4], true).unwrap(), [smallest, 0.0, 0.0, 0.099975586]);
    }

    #[test]
    fn a_difference_beyond_float16_is_an_error() {
        let bad = centred(&[1.0, -7e4], &[0.0; 2], true).unwrap_err();
        assert!(bad.reason.starts_with("dimension 1 is -70000 from its threshold"), "{}", bad.reason);
        assert_eq!(centred(&[1.0, -7e4], &[0.0; 2], false).unwrap(), [1.0, -7e4]);
    }
}
