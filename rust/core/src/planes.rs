//! Bit planes: conversion between codes, one byte for each dimension, and planes, top bit first.
//!
//! Plane k of a row holds bit 7-k of every code: dimension i at byte i/8, most significant bit first, padded with zeros.
//! Codes of more than 8 bits have a second byte for each dimension, whose planes follow those of the first.

use std::convert::Infallible;

use multiversion::multiversion;

use crate::pool;

/// The largest number of planes of a row.
pub const MAX_PLANES: usize = 10;

/// Bytes of one plane of `dimensions` dimensions.
pub fn width(dimensions: usize) -> usize {
    dimensions.div_ceil(8)
}

/// Bytes of each plane that are transposed at once.
const BLOCK: usize = 64;

/// Transposes an 8x8 bit matrix about its antidiagonal: bit 7-k of byte i becomes bit 7-i of byte k. It is its own
/// inverse. Three rounds exchange ever larger blocks (Warren, Hacker's Delight, 7-3).
#[inline(always)]
fn transpose(word: u64) -> u64 {
    let word = exchange(word, 9, 0x0055_0055_0055_0055);
    let word = exchange(word, 18, 0x0000_3333_0000_3333);
    exchange(word, 36, 0x0000_0000_0F0F_0F0F)
}

/// Exchanges the bits of `word` under `mask` with the bits `distance` above them.
#[inline(always)]
fn exchange(word: u64, distance: u32, mask: u64) -> u64 {
    let differing = (word ^ (word >> distance)) & mask;
    word ^ differing ^ (differing << distance)
}

/// Writes the top `planes` planes of `codes`, at most 8, into `out`. `codes` has 8 * width bytes, padded with zeros.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn pack(codes: &[u8], planes: usize, out: &mut [u8]) {
    let width = codes.len() / 8;
    let mut words = [0u64; BLOCK];
    for (block, codes) in codes.chunks(8 * BLOCK).enumerate() {
        let eights = codes.as_chunks::<8>().0;
        for (word, eight) in words.iter_mut().zip(eights) {
            *word = transpose(u64::from_le_bytes(*eight));
        }
        for plane in 0..planes {
            let out = &mut out[plane * width + block * BLOCK..][..eights.len()];
            for (byte, word) in out.iter_mut().zip(&words) {
                *byte = (word >> (8 * plane)) as u8;
            }
        }
    }
}

/// Writes the codes of a row of `planes` planes, at most 8, into `codes`, 8 * width bytes; their lower bits are zero.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
pub fn unpack(row: &[u8], planes: usize, codes: &mut [u8]) {
    let width = codes.len() / 8;
    for (block, codes) in codes.chunks_mut(8 * BLOCK).enumerate() {
        let eights = codes.as_chunks_mut::<8>().0;
        let mut words = [0u64; BLOCK];
        for plane in 0..planes {
            let bytes = &row[plane * width + block * BLOCK..][..eights.len()];
            for (word, byte) in words.iter_mut().zip(bytes) {
                *word |= u64::from(*byte) << (8 * plane);
            }
        }
        for (eight, word) in eights.iter_mut().zip(&words) {
            *eight = transpose(*word).to_le_bytes();
        }
    }
}

/// Writes for each row and each threshold, in 1 to 255, the plane [code >= threshold]. Rows hold as many planes of `width`
/// bytes as the thresholds compare: 8 minus the number of zero bits that they end in.
pub fn compare(codes: &[u8], stride: usize, width: usize, thresholds: &[u8], out: &mut [u8]) {
    let row_bytes = thresholds.len() * width;
    let Ok(()) = pool::for_row_chunks::<_, Infallible>(stride, row_bytes, out, |first, out| {
        for (row, out) in codes[first * stride..].chunks_exact(stride).zip(out.chunks_exact_mut(row_bytes)) {
            for (&threshold, out) in thresholds.iter().zip(out.chunks_exact_mut(width)) {
                compare_row(row, width, threshold, out);
            }
        }
        Ok(())
    });
}

/// The number of planes that `compare` reads.
pub fn planes_compared(thresholds: &[u8]) -> usize {
    thresholds.iter().map(|threshold| 8 - threshold.trailing_zeros() as usize).max().unwrap_or(0)
}

/// From the threshold's last set bit up, a code is still at least the threshold where it has the bit too, or, where the
/// threshold has no bit, if it has one or was at least the threshold below.
fn compare_row(row: &[u8], width: usize, threshold: u8, out: &mut [u8]) {
    let plane = |bit: u32| &row[(7 - bit as usize) * width..][..width];
    let last = threshold.trailing_zeros();
    out.copy_from_slice(plane(last));
    for bit in last + 1..8 {
        let bytes = out.iter_mut().zip(plane(bit));
        if threshold >> bit & 1 == 1 {
            bytes.for_each(|(out, byte)| *out &= byte);
        } else {
            bytes.for_each(|(out, byte)| *out |= byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_the_bits_from_the_top() {
        let mut out = [0; 8];
        pack(&[128, 0, 0, 0, 0, 0, 1, 129], 8, &mut out);
        assert_eq!(out, [0b1000_0001, 0, 0, 0, 0, 0, 0, 0b0000_0011]);
    }

    #[test]
    fn unpacking_undoes_packing_for_every_code() {
        let codes: Vec<u8> = (0..=255).cycle().take(8 * 3 * BLOCK + 24).map(|code: u8| code).collect();
        let (mut packed, mut unpacked) = (vec![0; codes.len()], vec![0; codes.len()]);
        pack(&codes, 8, &mut packed);
        unpack(&packed, 8, &mut unpacked);
        assert_eq!(unpacked, codes);
    }

    #[test]
    fn fewer_planes_keep_the_top_bits() {
        let codes: Vec<u8> = (0..=255).collect();
        let (mut packed, mut unpacked) = (vec![0; 128], vec![0; 256]);
        pack(&codes, 4, &mut packed);
        unpack(&packed, 4, &mut unpacked);
        assert!(unpacked.iter().zip(&codes).all(|(top, code)| *top == code & 0xF0));
    }

    #[test]
    fn every_code_is_compared_with_every_threshold() {
        let codes: Vec<u8> = (0..=255).collect();
        let thresholds: Vec<u8> = (1..=255).collect();
        let (mut packed, mut out) = (vec![0; 256], vec![0; 32 * 255]);
        pack(&codes, 8, &mut packed);
        compare(&packed, 256, 32, &thresholds, &mut out);
        let bit = |plane: usize, code: usize| out[32 * plane + code / 8] >> (7 - code % 8) & 1 == 1;
        for (plane, &threshold) in thresholds.iter().enumerate() {
            assert!((0..256).all(|code| bit(plane, code) == (code >= usize::from(threshold))));
        }
    }

    #[test]
    fn planes_are_compared_down_to_the_last_set_bit() {
        assert_eq!(planes_compared(&[128]), 1);
        assert_eq!(planes_compared(&[144, 112]), 4);
        assert_eq!(planes_compared(&[144, 129]), 8);
    }
}
