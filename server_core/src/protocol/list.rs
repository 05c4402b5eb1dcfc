//! A list inside a packet: a slice to send, or a part of a received payload.

use crate::base::reason::Kick;
use crate::base::wire::U16Le;
use crate::protocol::reader::{PacketReader, ReadPart};
use crate::protocol::writer::{PacketWriter, WritePart};
use std::fmt;
use std::marker::PhantomData;

/// A list on the wire: a `u16` count, then that number of items, each of a size of its own.
///
/// A received list was checked to its last byte when its packet was read, so its iteration cannot fail.
/// The list borrows the payload and owns no memory. Where all items have one fixed size, `&'a [PART]` has
/// the same bytes on the wire and is a slice.
///
/// ```
/// # use server_core::{Kick, List, PacketReader, PacketWriter};
/// let mut buffer = [0; 16];
/// let mut writer = PacketWriter::new(&mut buffer);
/// writer.write(&List::of(&["a", "bc"]));
/// let bytes = writer.finish().expect("it fits");
/// assert_eq!(buffer[..bytes], [2, 0, 1, 0, b'a', 2, 0, b'b', b'c']);
///
/// let names: List<'_, &str> = PacketReader::new(&buffer[..bytes]).read()?;
/// assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "bc"]);
/// # Ok::<(), Kick>(())
/// ```
pub struct List<'a, T> {
    items: Items<'a, T>,
}

/// An iterator over the items of a [`List`].
#[derive(Clone)]
pub struct ListIter<'a, T> {
    rest: List<'a, T>,
}

enum Items<'a, T> {
    /// To be sent.
    Given(&'a [T]),
    /// Received: `bytes` are exactly `count` items, and each was read once.
    Received {
        bytes: &'a [u8],
        count: u16,
        item: PhantomData<fn() -> T>,
    },
}

impl<'a, T> List<'a, T> {
    /// A list of these items.
    #[must_use]
    pub const fn of(items: &'a [T]) -> Self {
        Self {
            items: Items::Given(items),
        }
    }

    /// The number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        match self.items {
            Items::Given(items) => items.len(),
            Items::Received { count, .. } => count.into(),
        }
    }

    /// Whether the list has no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, T: ReadPart<'a> + Clone> List<'a, T> {
    /// The items in order. `for item in &list` is the same.
    #[must_use]
    pub fn iter(&self) -> ListIter<'a, T> {
        ListIter { rest: *self }
    }
}

impl<'a, T: ReadPart<'a> + Clone> Iterator for ListIter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &mut self.rest.items {
            Items::Given(items) => {
                let (first, rest) = items.split_first()?;
                *items = rest;
                Some(first.clone())
            }
            Items::Received { count: 0, .. } => None,
            Items::Received { bytes, count, .. } => {
                let mut reader = PacketReader::new(bytes);
                // Each item was read once before, so no item is missing.
                let item = reader.read().ok()?;
                *bytes = reader.rest();
                *count -= 1;
                Some(item)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.rest.len(), Some(self.rest.len()))
    }
}

impl<'a, T: ReadPart<'a> + Clone> ExactSizeIterator for ListIter<'a, T> {}

impl<'a, T: ReadPart<'a> + Clone> IntoIterator for List<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}

impl<'a, T: ReadPart<'a> + Clone> IntoIterator for &List<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> ListIter<'a, T> {
        self.iter()
    }
}

impl<'a, T: ReadPart<'a>> ReadPart<'a> for List<'a, T> {
    const MIN_BYTES: usize = size_of::<U16Le>();

    fn read(reader: &mut PacketReader<'a>) -> Result<Self, Kick> {
        const { assert!(T::MIN_BYTES > 0, "items without bytes could be any number") }
        let count = reader.count(T::MIN_BYTES)?;
        let from_here = reader.rest();
        reader.nested(|reader| (0..count).try_for_each(|_| T::read(reader).map(drop)))?;
        let bytes = &from_here[..from_here.len() - reader.rest().len()];
        Ok(Self {
            items: Items::Received {
                bytes,
                count: count as u16,
                item: PhantomData,
            },
        })
    }
}

impl<T: WritePart> WritePart for List<'_, T> {
    fn write(&self, writer: &mut PacketWriter<'_>) {
        match self.items {
            Items::Given(items) => writer.list(items, |writer, item| item.write(writer)),
            // Forwarding a received list costs a copy of its bytes.
            Items::Received { bytes, count, .. } => {
                writer.write(&count);
                writer.put(bytes);
            }
        }
    }
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> Clone for Items<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Items<'_, T> {}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::of(&[])
    }
}

impl<'a, T: ReadPart<'a> + Clone + PartialEq> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: ReadPart<'a> + Clone + fmt::Debug> fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: ReadPart<'a> + Clone + fmt::Debug> fmt::Debug for ListIter<'a, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListIter").field(&self.rest).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::reader::MAX_LIST_DEPTH;

    fn written(part: &impl WritePart) -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut writer = PacketWriter::new(&mut buffer);
        writer.write(part);
        let bytes = writer.finish().unwrap();
        buffer[..bytes].to_vec()
    }

    #[test]
    fn lists_in_lists_have_golden_bytes_and_come_back() {
        let (one, two) = ([1_u16, 2], [3_u16]);
        let rows = [List::of(&one), List::default(), List::of(&two)];
        let list = List::of(&rows);
        let bytes = written(&list);
        assert_eq!(bytes, [3, 0, 2, 0, 1, 0, 2, 0, 0, 0, 1, 0, 3, 0]);
        let mut reader = PacketReader::new(&bytes);
        let read: List<'_, List<'_, u16>> = reader.read().unwrap();
        assert_eq!(reader.finish(), Ok(()));
        assert_eq!(read, list);
        assert_eq!((read.len(), read.is_empty()), (3, false));
        assert_eq!(format!("{read:?}"), "[[1, 2], [], [3]]");
        assert_eq!(written(&read), bytes, "forwarded as received");
    }

    #[test]
    fn given_or_received_it_is_walked_the_same_way() {
        let given = List::of(&["a", "", "bcd"]);
        let bytes = written(&given);
        let received: List<'_, &str> = PacketReader::new(&bytes).read().unwrap();
        for list in [given, received] {
            let mut seen = Vec::new();
            for (walked, item) in (&list).into_iter().enumerate() {
                seen.push(item);
                let mut iter = list.iter();
                assert_eq!(iter.nth(walked), Some(item));
                assert_eq!(iter.len(), 2 - walked);
            }
            assert_eq!(seen, ["a", "", "bcd"]);
            let mut iter = list.into_iter();
            assert_eq!(iter.next(), Some("a"));
            assert_eq!(format!("{iter:?}"), r#"ListIter(["", "bcd"])"#);
            assert_eq!((iter.by_ref().count(), iter.next()), (2, None));
        }
    }

    #[test]
    fn cut_anywhere_it_is_a_kick() {
        let names = ["a", "", "bcd"];
        let bytes = written(&List::of(&[List::of(&names), List::of(&names)]));
        for len in 0..bytes.len() {
            let cut = PacketReader::new(&bytes[..len]).read::<List<'_, List<'_, &str>>>();
            assert_eq!(cut, Err(Kick::BadPayload), "{len} bytes");
        }
    }

    #[test]
    fn a_claimed_count_is_not_believed() {
        for count in [4_u16, 65_535] {
            let mut payload = count.to_le_bytes().to_vec();
            payload.extend([1, 2, 3]);
            let read = PacketReader::new(&payload).read::<List<'_, u8>>();
            assert_eq!(read, Err(Kick::BadPayload));
        }
    }

    /// A list of its own type, whose depth the peer chooses.
    #[derive(Clone, Debug, PartialEq)]
    struct Tree<'a>(List<'a, Tree<'a>>);
    impl<'a> ReadPart<'a> for Tree<'a> {
        const MIN_BYTES: usize = <List<'a, Self> as ReadPart<'a>>::MIN_BYTES;
        fn read(reader: &mut PacketReader<'a>) -> Result<Self, Kick> {
            reader.read().map(Tree)
        }
    }

    #[test]
    fn a_peer_does_not_choose_how_much_stack_its_packet_costs() {
        let chain = |depth: usize| {
            let mut payload = [1, 0].repeat(depth);
            payload.extend([0, 0]);
            payload
        };
        let deepest = usize::from(MAX_LIST_DEPTH) - 1;
        let payload = chain(deepest);
        let mut tree: Tree<'_> = PacketReader::new(&payload).read().unwrap();
        for _ in 0..deepest {
            tree = tree.0.iter().next().unwrap();
        }
        assert!(tree.0.is_empty());
        for depth in [deepest + 1, 32_764] {
            let payload = chain(depth);
            let read = PacketReader::new(&payload).read::<Tree<'_>>();
            assert_eq!(read, Err(Kick::BadPayload), "{depth} lists deep");
        }
    }
}
