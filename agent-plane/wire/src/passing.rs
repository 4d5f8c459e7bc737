//! Bytes with a descriptor beside them, over a Unix socket: one `sendmsg`, one `recvmsg`.
//!
//! The machine's kernel delivers a descriptor with the first byte of what was sent with it, and
//! never reads past it into what was sent later. So the descriptors of a connection arrive in the
//! order of the frames that announce them, and a queue of them is enough to pair the two. What
//! arrives is owned at once and close-on-exec: it is closed wherever it is dropped.
//!
//! Never waits by itself: on a socket that does not block, [`std::io::ErrorKind::WouldBlock`].

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Descriptors that may have arrived ahead of the frames that announce them.
pub const MAX_WAITING: usize = 8;
/// Descriptors beside one message: as many as the machine's kernel allows (`SCM_MAX_FD`). Less room
/// would have it close the others in the reader's name.
const MAX_OF_ONE_MESSAGE: usize = 253;

/// Sends as many of `bytes` as fit, `descriptor` with the first of them; gives how many.
///
/// # Errors
/// As `sendmsg`. When it fails, the descriptor was not sent either.
pub fn send(
    socket: impl AsFd,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> std::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let rights = descriptor.as_slice();
    if !rights.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(rights));
    }
    let data = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &data, &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads what is there into `bytes`, and the descriptors that came with it into `arrived`; gives
/// how many bytes.
///
/// # Errors
/// As `recvmsg`; [`std::io::ErrorKind::InvalidData`] when more descriptors came than may wait. The
/// stream is of no use after that.
pub fn receive(
    socket: impl AsFd,
    bytes: &mut [u8],
    arrived: &mut VecDeque<OwnedFd>,
) -> std::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_OF_ONE_MESSAGE))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(bytes)];
    let received = recvmsg(socket, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            arrived.extend(descriptors);
        }
    }
    if arrived.len() > MAX_WAITING || received.flags.contains(ReturnFlags::CTRUNC) {
        let text = format!("more than {MAX_WAITING} descriptors came ahead of their frames");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
    }
    Ok(received.bytes)
}

/// What the peer has not read yet of what was sent, bytes of the machine's memory: a few hundred
/// for each small message, whatever its length.
///
/// # Errors
/// As `ioctl`.
#[allow(unsafe_code)]
pub fn unread(socket: impl AsFd) -> std::io::Result<usize> {
    const TIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: the request is SIOCOUTQ (asm-generic/ioctls.h), which writes one int and no more.
    let unread: i32 = unsafe {
        let request = rustix::ioctl::Getter::<TIOCOUTQ, i32>::new();
        rustix::ioctl::ioctl(socket, request)?
    };
    Ok(usize::try_from(unread).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_with_its_bytes_and_in_order() {
        let (one, other) = UnixStream::pair().unwrap();
        let files: Vec<OwnedFd> = (0..3)
            .map(|_| std::fs::File::open("/dev/null").unwrap().into())
            .collect();
        for (index, file) in files.iter().enumerate() {
            (&one).write_all(b"before").unwrap();
            assert_eq!(send(&one, &[index as u8], Some(file.as_fd())).unwrap(), 1);
        }
        drop(one);
        let (mut read, mut arrived, mut buffer) = (Vec::new(), VecDeque::new(), [0; 64]);
        loop {
            let count = receive(&other, &mut buffer, &mut arrived).unwrap();
            read.extend_from_slice(&buffer[..count]);
            if count == 0 {
                break;
            }
        }
        assert_eq!(read, b"before\0before\x01before\x02");
        assert_eq!(arrived.len(), 3);
    }

    #[test]
    fn what_the_peer_has_not_read_is_known() {
        let (one, other) = UnixStream::pair().unwrap();
        assert_eq!(unread(&one).unwrap(), 0);
        (&one).write_all(b"x").unwrap();
        assert!(unread(&one).unwrap() > 0);
        receive(&other, &mut [0; 8], &mut VecDeque::new()).unwrap();
        assert_eq!(unread(&one).unwrap(), 0);
    }

    #[test]
    fn more_descriptors_than_may_wait_are_refused() {
        let (one, other) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let (mut arrived, mut buffer) = (VecDeque::new(), [0; 64]);
        for _ in 0..MAX_WAITING {
            send(&one, b"x", Some(file.as_fd())).unwrap();
            receive(&other, &mut buffer, &mut arrived).unwrap();
        }
        send(&one, b"x", Some(file.as_fd())).unwrap();
        let error = receive(&other, &mut buffer, &mut arrived).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
}
