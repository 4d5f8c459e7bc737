//! kairod: `kernel.ping`, one by one and in a pipeline.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Result, ensure};
use kairo_wire::message::Message;
use kairo_wire::{Decoder, FrameKind, Id, Limits, Request, Response, Value};

/// Requests sent before their answers are read.
const DEPTH: usize = 256;

/// A connection to kairod.
#[derive(Debug)]
pub struct Kernel {
    stream: UnixStream,
    decoder: Decoder,
    buffer: Vec<u8>,
    next: i64,
}

impl Kernel {
    /// Connects.
    pub fn connect(path: &str) -> Result<Self> {
        Ok(Self {
            stream: UnixStream::connect(path)?,
            decoder: Decoder::default(),
            buffer: vec![0; 64 * 1024],
            next: 1,
        })
    }

    fn request(&mut self) -> Result<Vec<u8>> {
        let request: Request = Request {
            id: Some(Id::Number(self.next)),
            method: "kernel.ping".into(),
            params: None,
            meta: None,
        };
        self.next += 1;
        Ok(request.encode(&Limits::default())?)
    }

    /// The next answer, decoded and checked.
    fn answer(&mut self) -> Result<()> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                ensure!(frame.kind == FrameKind::Response, "no response");
                let response: Response<Value> =
                    Response::decode(&frame.payload, &Limits::default())?;
                response.into_result()?;
                return Ok(());
            }
            let count = self.stream.read(&mut self.buffer)?;
            ensure!(count > 0, "kairod closed the connection");
            self.decoder.feed(&self.buffer[..count]);
        }
    }

    /// One call.
    pub fn ping(&mut self) -> Result<()> {
        let request = self.request()?;
        self.stream.write_all(&request)?;
        self.answer()
    }

    /// Calls a second with many under way.
    pub fn pipelined(&mut self, count: usize) -> Result<f64> {
        let mut batch = Vec::new();
        for _ in 0..DEPTH {
            batch.extend(self.request()?);
        }
        let began = Instant::now();
        // Two batches are always under way, so that kairod never waits for this side.
        self.stream.write_all(&batch)?;
        let batches = count / DEPTH;
        for _ in 1..batches {
            self.stream.write_all(&batch)?;
            for _ in 0..DEPTH {
                self.answer()?;
            }
        }
        for _ in 0..DEPTH {
            self.answer()?;
        }
        Ok((batches * DEPTH) as f64 / began.elapsed().as_secs_f64())
    }
}
