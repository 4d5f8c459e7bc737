//! tonic: one unary call over a Unix socket, written out by hand so that no compiler of protocol
//! files is needed.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use std::time::Instant;

use anyhow::Result;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// What `kernel.ping` answers, as protocol buffers have it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pong {
    /// The machine's time.
    #[prost(uint64, tag = "1")]
    pub monotonic_ns: u64,
}

/// Nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ping {}

#[derive(Clone, Debug)]
struct Pinger;

impl NamedService for Pinger {
    const NAME: &'static str = "bench.Kernel";
}

impl UnaryService<Ping> for Pinger {
    type Response = Pong;
    type Future = Ready<Result<Response<Pong>, Status>>;

    fn call(&mut self, _: Request<Ping>) -> Self::Future {
        ready(Ok(Response::new(Pong { monotonic_ns: 1 })))
    }
}

type Answer = std::pin::Pin<
    Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send + 'static>,
>;

impl tower::Service<http::Request<Body>> for Pinger {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        Box::pin(async move {
            let codec: ProstCodec<Pong, Ping> = ProstCodec::default();
            let mut grpc = tonic::server::Grpc::new(codec);
            Ok(grpc.unary(Pinger, request).await)
        })
    }
}

/// Serves until it is killed.
pub async fn serve(path: &str) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    Server::builder()
        .add_service(Pinger)
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await?;
    Ok(())
}

/// The caller.
#[derive(Debug)]
pub struct Caller(Channel);

impl Caller {
    /// Connects.
    pub async fn connect(path: &str) -> Result<Self> {
        let path = path.to_string();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::try_from("http://bench.invalid")?;
        Ok(Self(endpoint.connect_with_connector(connector).await?))
    }

    /// Times calls one after another, ns each.
    pub async fn calls(&self, count: usize) -> Result<Vec<u64>> {
        let mut grpc = Grpc::new(self.0.clone());
        let mut all = Vec::with_capacity(count);
        for number in 0..count / 10 + count {
            let began = Instant::now();
            grpc.ready().await?;
            let path = PathAndQuery::from_static("/bench.Kernel/Ping");
            let codec: ProstCodec<Ping, Pong> = ProstCodec::default();
            let _: Response<Pong> = grpc.unary(Request::new(Ping {}), path, codec).await?;
            if number >= count / 10 {
                all.push(began.elapsed().as_nanos() as u64);
            }
        }
        Ok(all)
    }
}
