//! The requests of a link to its broker, and the broker's answers.

#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

use super::envelope::Incarnation;
use crate::groups::id::GroupId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Carries the requests of one link, from the link's thread. The answers come back as
/// [`Event`](super::link::Event)s: one [`Reply`] for each request, in the order of the requests.
pub trait Broker {
    /// Begins a connection of this number.
    fn connect(&mut self, connection: u64);

    /// Ends the connection of this number.
    fn close(&mut self, connection: u64);

    /// Sends requests on the current connection. Requests that cannot be sent within this time end the connection.
    fn send(&mut self, requests: Vec<Request>, timeout: Duration);
}

/// A channel of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Heartbeats of all nodes.
    Nodes,
    /// Packets for all sessions.
    Everybody,
    /// Packets for the members of a group.
    Group(GroupId),
    /// Messages for one node.
    Node(Incarnation),
}

/// A request to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Receive the messages of a channel.
    Subscribe(Channel),
    /// Receive no more messages of a channel.
    Unsubscribe(Channel),
    /// Send a message to the subscribers of a channel.
    Publish(Channel, Vec<u8>),
    /// Set the key of this node for [`LEASE`](super::picture::LEASE).
    RenewLease(Incarnation),
    /// The value of the key of a node, which is not this one.
    GetLease(Incarnation),
    /// Delete the key of this node.
    DropLease(Incarnation),
    /// Set the key of an account, and answer with its value before.
    SetLogin(Arc<str>, Vec<u8>),
    /// Set the key of an account to the second value if it has the first value or none, and answer with its value
    /// before.
    ReplaceLogin(Arc<str>, Vec<u8>, Vec<u8>),
    /// The values of the keys of these accounts.
    GetLogins(Vec<Arc<str>>),
    /// Delete the key of an account if it has this value.
    DropLogin(Arc<str>, Vec<u8>),
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request is done. No value.
    Done,
    /// The value of a key.
    Value(Vec<u8>),
    /// A number, of a [`Request::Publish`] the number of subscribers.
    Count(u64),
    /// The values of several keys.
    Values(Vec<Option<Vec<u8>>>),
    /// The broker refuses the request.
    Error,
}

/// The lifetime of the key of an account. A link renews its keys once an hour, or more often.
pub const LOGIN_TTL: Duration = Duration::from_secs(24 * 60 * 60);

const PREFIX: &str = "gs1";

impl Channel {
    /// Reads a name. `None` for the name of another channel.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?;
        match name {
            ":nodes" => Some(Self::Nodes),
            ":everybody" => Some(Self::Everybody),
            _ => {
                if let Some(hex) = name.strip_prefix(":node:") {
                    return Some(Self::Node(Incarnation(u64::from_str_radix(hex, 16).ok()?)));
                }
                let (kind, number) = name.strip_prefix(":group:")?.split_once(':')?;
                let group = GroupId::new(kind.parse().ok()?, number.parse().ok()?);
                Some(Self::Group(group))
            }
        }
    }
}

/// The name.
impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => write!(f, "{PREFIX}:nodes"),
            Self::Everybody => write!(f, "{PREFIX}:everybody"),
            Self::Group(group) => write!(f, "{PREFIX}:group:{group}"),
            Self::Node(node) => write!(f, "{PREFIX}:node:{:016x}", node.0),
        }
    }
}

/// The key of a node's lease.
#[must_use]
pub fn lease_key(node: Incarnation) -> String {
    format!("{PREFIX}:lease:{:016x}", node.0)
}

/// The key of an account.
#[must_use]
pub fn login_key(account: &str) -> String {
    format!("{PREFIX}:login:{account}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_out() {
        for channel in [
            Channel::Nodes,
            Channel::Everybody,
            Channel::Group(GroupId::new(7, u32::MAX)),
            Channel::Node(Incarnation(u64::MAX - 1)),
        ] {
            assert_eq!(
                Channel::parse(channel.to_string().as_bytes()),
                Some(channel)
            );
        }
        for other in [
            &b""[..],
            b"gs1",
            b"gs1:group:1",
            b"gs2:nodes",
            b"gs1:node:x",
            b"\xff",
        ] {
            assert_eq!(Channel::parse(other), None);
        }
    }
}
