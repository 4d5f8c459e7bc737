//! Clients of the control socket: few, bounded in both directions, never waited for.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags};

use crate::control::REQUEST_BYTES_MAX;
use crate::sys::{ClientId, Event};

/// Clients at a time; the next one is turned away.
const CLIENTS_MAX: usize = 8;
/// Reply bytes a client may leave unread: the longest log reply fits (1000 lines of 1 KiB, whose
/// bytes JSON may write as six).
const UNREAD_BYTES_MAX: usize = 7 << 20;

#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    request: Vec<u8>,
    reply: Vec<u8>,
    gone: bool,
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    listener: Option<UnixListener>,
    clients: Vec<Client>,
    last_id: ClientId,
}

impl Clients {
    pub(super) fn serve(&mut self, listener: OwnedFd) {
        self.listener = Some(UnixListener::from(listener));
    }

    pub(super) fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        let listener = self.listener.iter();
        let listener = listener.map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN));
        listener.chain(self.clients.iter().map(|client| {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, !client.reply.is_empty());
            PollFd::new(client.stream.as_fd(), flags)
        }))
    }

    pub(super) fn serve_all(&mut self, events: &mut Vec<Event>) {
        self.admit();
        for client in &mut self.clients {
            client.flush();
            client.take_requests(events);
        }
        self.clients.retain(|client| {
            if client.gone {
                events.push(Event::ClientGone(client.id));
            }
            !client.gone
        });
    }

    pub(super) fn reply(&mut self, id: ClientId, line: &str) {
        let mut clients = self.clients.iter_mut();
        let Some(client) = clients.find(|client| client.id == id) else {
            return;
        };
        if client.reply.len() + line.len() > UNREAD_BYTES_MAX {
            client.gone = true;
            return;
        }
        client.reply.extend_from_slice(line.as_bytes());
        client.reply.push(b'\n');
        client.flush();
    }

    fn admit(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else {
            return;
        };
        if self.clients.len() == CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.last_id += 1;
        self.clients.push(Client {
            id: self.last_id,
            stream,
            request: Vec::new(),
            reply: Vec::new(),
            gone: false,
        });
    }
}

impl Client {
    fn flush(&mut self) {
        while !self.reply.is_empty() && !self.gone {
            match self.stream.write(&self.reply) {
                Ok(count) => drop(self.reply.drain(..count)),
                Err(error) => {
                    self.gone = error.kind() != std::io::ErrorKind::WouldBlock;
                    return;
                }
            }
        }
    }

    fn take_requests(&mut self, events: &mut Vec<Event>) {
        let mut chunk = [0; REQUEST_BYTES_MAX];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.gone = true,
            Ok(count) => self.request.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.gone = true,
        }
        while let Some(end) = self.request.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.request.drain(..=end).collect();
            line.pop();
            events.push(Event::Request(self.id, line));
        }
        // A line without an end: this is no client of ours.
        self.gone |= self.request.len() >= REQUEST_BYTES_MAX;
    }
}
