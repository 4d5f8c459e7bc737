//! The methods, one file a namespace. Each gives its rows of the table; the types beside a handler
//! are the method's public schema.

mod device;
mod diagnostics;
mod event;
mod intent;
pub mod introspection;
mod kernel;
mod permission;
mod rt;
mod service;
mod system;
mod traces;

use crate::router::Method;

pub use permission::KEPT_PATIENCE;

/// Every row.
pub fn all() -> Vec<Method> {
    let namespaces = [
        kernel::methods(),
        system::methods(),
        device::methods(),
        rt::methods(),
        event::methods(),
        intent::methods(),
        permission::methods(),
        service::methods(),
        traces::methods(),
        diagnostics::methods(),
    ];
    namespaces.into_iter().flatten().collect()
}

#[cfg(test)]
mod reference_tests;

#[cfg(test)]
mod tests {
    #[test]
    fn every_row_has_a_sentence_and_schemas_that_refuse_unknown_keys() {
        for method in super::all() {
            let name = method.name;
            assert!(name.contains('.'), "{name}");
            assert!(method.summary.ends_with('.'), "{name}: {}", method.summary);
            assert_eq!(method.params["additionalProperties"], false, "{name}");
            assert!(method.result["type"] == "object", "{name}");
        }
    }

    #[test]
    fn no_name_is_given_twice() {
        let mut names: Vec<&str> = super::all().iter().map(|method| method.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
