//! Packets and bytes by packet id and direction, with the names that `packets!` gives them.

use crate::base::metrics::Counter;

/// A packet of a game, as [`packets!`](crate::packets!) defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketInfo {
    /// The packet id.
    pub id: u16,
    /// The name in `packets!`.
    pub name: &'static str,
    /// Clients send it.
    pub from_client: bool,
    /// Servers send it.
    pub from_server: bool,
}

impl PacketInfo {
    /// For the expansion of `packets!`.
    #[doc(hidden)]
    #[must_use]
    pub const fn new(id: u16, name: &'static str, from_client: bool, from_server: bool) -> Self {
        Self {
            id,
            name,
            from_client,
            from_server,
        }
    }
}

/// The direction of a packet, seen from this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketDirection {
    /// From a peer.
    Received,
    /// To a peer.
    Sent,
}

impl PacketDirection {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Received, Self::Sent];

    /// The label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
        }
    }
}

/// The packets of one id in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketCount {
    /// Received or sent.
    pub direction: PacketDirection,
    /// The packet. `None`: the packets of all ids that no table has in this direction.
    pub packet: Option<PacketInfo>,
    /// Packets.
    pub packets: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

/// The declared packets, and the place of each id among the counters of its direction.
#[derive(Debug, Default)]
pub(crate) struct PacketTable {
    declared: Vec<PacketInfo>,
    /// By direction: the packets with a counter of their own.
    counted: [Vec<PacketInfo>; 2],
    /// By direction and id: the place of the counter. 0 is the counter of all other ids.
    places: [Vec<u16>; 2],
}

/// The counters of one worker, which alone writes them.
#[derive(Debug, Default)]
pub(crate) struct PacketCounters([Vec<IdCounters>; 2]);

#[derive(Debug, Default)]
struct IdCounters {
    packets: Counter,
    bytes: Counter,
}

impl PacketTable {
    /// Adds packets. The first packet of an id counts. A client receives what servers send.
    pub fn declare(&mut self, packets: &[PacketInfo], is_client: bool) {
        for packet in packets {
            if self.packet(packet.id).is_some() {
                continue;
            }
            self.declared.push(*packet);
            let received = [packet.from_client, packet.from_server][usize::from(is_client)];
            let sent = [packet.from_server, packet.from_client][usize::from(is_client)];
            for (direction, is_counted) in [received, sent].into_iter().enumerate() {
                if is_counted {
                    self.counted[direction].push(*packet);
                    let (places, id) = (&mut self.places[direction], usize::from(packet.id));
                    places.resize(places.len().max(id + 1), 0);
                    // Fewer than 65,536: the ids differ. The last of all ids would have place 0.
                    places[id] = self.counted[direction].len() as u16;
                }
            }
        }
    }

    /// The declared packet of this id.
    pub fn packet(&self, id: u16) -> Option<&PacketInfo> {
        self.declared.iter().find(|packet| packet.id == id)
    }

    pub fn is_empty(&self) -> bool {
        self.declared.is_empty()
    }

    fn place(&self, direction: PacketDirection, id: u16) -> usize {
        let places = &self.places[direction as usize];
        places.get(usize::from(id)).copied().unwrap_or(0).into()
    }

    /// The sums over these counters, and their names: the declared packets by direction, then the others.
    pub fn counts<'a>(
        &self,
        workers: impl Iterator<Item = &'a PacketCounters> + Clone,
    ) -> Vec<PacketCount> {
        let mut counts = Vec::new();
        if self.is_empty() {
            return counts;
        }
        for direction in PacketDirection::ALL {
            let packets = self.counted[direction as usize].iter().copied().map(Some);
            for (place, packet) in (1..).zip(packets).chain([(0, None)]) {
                let of_workers = || {
                    let counters = workers.clone();
                    counters.filter_map(|worker| worker.0[direction as usize].get(place))
                };
                counts.push(PacketCount {
                    direction,
                    packet,
                    packets: of_workers().map(|counters| counters.packets.get()).sum(),
                    bytes: of_workers().map(|counters| counters.bytes.get()).sum(),
                });
            }
        }
        counts
    }
}

impl PacketCounters {
    /// Counters at zero for this table.
    pub fn new(table: &PacketTable) -> Self {
        let of = |direction: usize| {
            let counters = table.counted[direction].len() + 1;
            std::iter::repeat_with(IdCounters::default)
                .take(counters)
                .collect()
        };
        Self([of(0), of(1)])
    }

    /// Counts `times` packets of this size. Only the worker's own thread calls it.
    #[inline]
    pub fn count(
        &self,
        table: &PacketTable,
        direction: PacketDirection,
        id: u16,
        bytes: usize,
        times: usize,
    ) {
        if table.is_empty() {
            return;
        }
        if let Some(counters) = self.0[direction as usize].get(table.place(direction, id)) {
            counters.packets.add_as_owner(times as u64);
            counters.bytes.add_as_owner((bytes * times) as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: PacketInfo = PacketInfo::new(65_535, "Both", true, true);
    const TABLE: [PacketInfo; 4] = [
        PacketInfo::new(1, "SHello", false, true),
        PacketInfo::new(2, "CEcho", true, false),
        BOTH,
        PacketInfo::new(1, "Twice", true, true),
    ];

    #[test]
    fn each_declared_id_has_a_count_in_its_direction_and_the_others_share_one() {
        for is_client in [false, true] {
            let mut table = PacketTable::default();
            table.declare(&TABLE, is_client);
            let workers = [PacketCounters::new(&table), PacketCounters::new(&table)];
            for direction in PacketDirection::ALL {
                for id in 0..=u16::MAX {
                    workers[usize::from(id % 2)].count(&table, direction, id, 10, 3);
                }
            }
            let counts = table.counts(workers.iter());
            let of = |direction, name: Option<&str>| {
                let mut found = counts.iter().filter(|count| {
                    count.direction == direction && count.packet.map(|packet| packet.name) == name
                });
                let count = found.next().map(|count| (count.packets, count.bytes));
                assert!(found.next().is_none());
                count
            };
            let (hello, echo) = if is_client {
                (PacketDirection::Received, PacketDirection::Sent)
            } else {
                (PacketDirection::Sent, PacketDirection::Received)
            };
            assert_eq!(of(hello, Some("SHello")), Some((3, 30)));
            assert_eq!(of(echo, Some("SHello")), None);
            assert_eq!(of(echo, Some("CEcho")), Some((3, 30)));
            assert_eq!(of(hello, Some("Twice")), None);
            for direction in PacketDirection::ALL {
                assert_eq!(of(direction, Some("Both")), Some((3, 30)));
                let others = 3 * (65_536 - 2);
                assert_eq!(of(direction, None), Some((others, 10 * others)));
            }
            assert_eq!(counts.len(), 6);
        }
    }

    #[test]
    fn without_a_table_nothing_is_counted() {
        let table = PacketTable::default();
        let counters = PacketCounters::new(&table);
        counters.count(&table, PacketDirection::Sent, 1, 10, 3);
        let others = &counters.0[PacketDirection::Sent as usize][0];
        assert_eq!((others.packets.get(), others.bytes.get()), (0, 0));
        assert!(table.counts([counters].iter()).is_empty());
    }
}
