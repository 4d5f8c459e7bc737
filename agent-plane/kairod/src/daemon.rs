//! What the whole of kairod shares, on its one thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use crate::connection::Connection;
use crate::events::EventBus;
use crate::plane::{Plane, SharedPlane};
use crate::router::Router;

/// Everything that more than one connection touches.
#[derive(Debug)]
pub struct Daemon {
    /// When kairod started.
    pub started: Instant,
    /// The event bus.
    pub bus: Rc<EventBus>,
    /// The real-time plane.
    pub plane: SharedPlane,
    /// The methods.
    pub router: Router,
    /// Open connections by number.
    pub connections: RefCell<BTreeMap<u64, Rc<Connection>>>,
    /// Connections refused because there were too many.
    pub refused_connections: Cell<u64>,
    next_connection: Cell<u64>,
}

impl Daemon {
    /// A daemon that nobody is connected to.
    pub fn new() -> Self {
        let bus = Rc::new(EventBus::new());
        Self {
            started: Instant::now(),
            plane: Rc::new(RefCell::new(Plane::new(Rc::clone(&bus)))),
            bus,
            router: Router::new(crate::methods::all()),
            connections: RefCell::default(),
            refused_connections: Cell::new(0),
            next_connection: Cell::new(1),
        }
    }

    /// A number for a new connection.
    pub fn next_connection(&self) -> u64 {
        let number = self.next_connection.get();
        self.next_connection.set(number + 1);
        number
    }
}
