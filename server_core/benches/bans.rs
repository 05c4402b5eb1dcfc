//! The cost of a question to a list of bans, which each connection asks before it costs anything else.

use divan::{Bencher, black_box};
use server_core::BanList;
use std::net::Ipv4Addr;

fn main() {
    divan::main();
}

/// Each second /24 of a part of the IPv4 addresses: no two bans are neighbours.
fn bans(count: u32) -> BanList {
    let lines = (0..count).map(|number| format!("{}/24\n", Ipv4Addr::from(number << 9)));
    BanList::read(lines.collect::<String>().as_bytes()).expect("each line is a ban")
}

/// An address that is banned, and one that is not, in turn, all over the list.
#[divan::bench(args = [1, 1_000, 100_000, 1_000_000])]
fn contains(bencher: Bencher<'_, '_>, count: u32) {
    let bans = bans(count);
    let mut number = 0_u32;
    bencher.bench_local(|| {
        number = number.wrapping_add(2_654_435_761) % (2 * count);
        black_box(bans.contains(Ipv4Addr::from(number << 8 | 7).into(), 1_900_000_000))
    });
}

/// A file that is read again.
#[divan::bench(args = [100_000], sample_count = 20)]
fn read(bencher: Bencher<'_, '_>, count: u32) {
    let lines = (0..count).map(|number| format!("{}/24\n", Ipv4Addr::from(number << 9)));
    let text: String = lines.collect();
    bencher.bench_local(|| BanList::read(text.as_bytes()).expect("each line is a ban"));
}
