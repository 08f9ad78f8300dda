//! Learned bits: bit j of a row is [sum_i W_ji (2 c_i - 255) + b_j > 0], computed in integers so that every machine
//! gives the same bits.

use std::convert::Infallible;

use multiversion::multiversion;

use crate::planes;
use crate::pool;

/// Rows that are multiplied by one row of W while it is in the L1 cache.
const TOGETHER: usize = 16;

/// The weights W as i16 in rows of 8 * width, padded with zeros as codes are, and the bias of each row. Callers have
/// checked that no sum overflows i32.
pub struct Projection {
    weights: Vec<i16>,
    bias: Vec<i32>,
    padded: usize,
}

impl Projection {
    pub fn new(weights: &[i8], bias: &[i32]) -> Self {
        let dimensions = weights.len() / bias.len();
        let padded = 8 * planes::width(dimensions);
        let mut wide = vec![0; bias.len() * padded];
        for (wide, row) in wide.chunks_exact_mut(padded).zip(weights.chunks_exact(dimensions)) {
            for (wide, &weight) in wide.iter_mut().zip(row) {
                *wide = weight.into();
            }
        }
        Projection { weights: wide, bias: bias.to_vec(), padded }
    }

    /// Writes the learned bits of rows of eight planes into `out`: one bit for each row of W, most significant bit first.
    pub fn project(&self, codes: &[u8], out: &mut [u8]) {
        let (stride, bytes) = (self.padded, self.bias.len() / 8);
        let Ok(()) = pool::for_row_chunks::<_, Infallible>(stride * bytes, bytes, out, |first, out| {
            let mut steps = vec![0; TOGETHER * stride];
            for (group, out) in out.chunks_mut(TOGETHER * bytes).enumerate() {
                let start = first + group * TOGETHER;
                let rows = out.len() / bytes;
                read_steps(&codes[start * stride..][..rows * stride], stride, &mut steps);
                self.write_bits(&steps[..rows * stride], out);
            }
            Ok(())
        });
    }

    fn write_bits(&self, steps: &[i16], out: &mut [u8]) {
        let bytes = self.bias.len() / 8;
        out.fill(0);
        for (j, (weights, &bias)) in self.weights.chunks_exact(self.padded).zip(&self.bias).enumerate() {
            for (row, steps) in steps.chunks_exact(self.padded).enumerate() {
                let above = inner_product(weights, steps) + bias > 0;
                out[row * bytes + j / 8] |= u8::from(above) << (7 - j % 8);
            }
        }
    }
}

/// Writes 2 c - 255 of each code of each row. In the padding the weights are zero.
fn read_steps(codes: &[u8], stride: usize, steps: &mut [i16]) {
    let mut row_codes = vec![0; stride];
    for (row, steps) in codes.chunks_exact(stride).zip(steps.chunks_exact_mut(stride)) {
        planes::unpack(row, 8, &mut row_codes);
        for (step, &code) in steps.iter_mut().zip(&row_codes) {
            *step = 2 * i16::from(code) - 255;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn inner_product(weights: &[i16], steps: &[i16]) -> i32 {
    weights.iter().zip(steps).map(|(&weight, &step)| i32::from(weight) * i32::from(step)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_is_set_for_sums_above_zero() {
        let mut row = [0; 8];
        planes::pack(&[128, 127, 0, 0, 0, 0, 0, 0], 8, &mut row); // steps 1 and -1
        let mut weights = [0; 16];
        for j in 0..8 {
            (weights[2 * j], weights[2 * j + 1]) = (j as i8, 3);
        }
        let mut out = [0xFF];
        Projection::new(&weights, &[0, 0, 0, 0, -1, -1, 0, 0]).project(&row, &mut out);
        assert_eq!(out, [0b0000_0111]); // j - 3 + bias: the fifth is 0, the sixth 1
    }

    #[test]
    fn groups_of_rows_are_written_in_order() {
        let rows = 2 * TOGETHER + 3;
        let mut codes = vec![0; rows * 8];
        for row in 0..rows {
            planes::pack(&[row as u8 * 7, 0, 0, 0, 0, 0, 0, 0], 8, &mut codes[row * 8..][..8]);
        }
        let mut out = vec![0; rows];
        Projection::new(&[1; 8], &[55; 8]).project(&codes, &mut out);
        let wanted: Vec<u8> = (0..rows).map(|row| if row * 7 > 100 { 0xFF } else { 0 }).collect();
        assert_eq!(out, wanted);
    }
}
