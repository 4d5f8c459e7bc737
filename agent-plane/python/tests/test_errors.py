"""Exceptions, endpoints, and the checks that are made before anything is sent."""

from __future__ import annotations

import unittest

import kairo
from kairo import endpoint, errors, schema
from kairo.introspection import Method, Tables

SEND = {
    "type": "object", "additionalProperties": False, "required": ["device", "ttl_ms"],
    "properties": {
        "device": {"type": "string"},
        "ttl_ms": {"type": "integer", "minimum": 0},
        "mode": {"$ref": "#/$defs/Mode"},
        "positions": {"anyOf": [
            {"type": "object", "additionalProperties": {"type": "number"}},
            {"type": "array", "items": {"type": "number"}}, {"type": "null"},
        ]},
    },
    "$defs": {"Mode": {"oneOf": [{"const": "stop"}, {"enum": ["position", "velocity"]}]}},
}


class Errors(unittest.TestCase):
    def test_every_code_has_its_class_and_keeps_what_came_with_it(self) -> None:
        for code, kind in errors.BY_CODE.items():
            info = {"code": code, "message": "m", "details": {"reason": "r", "n": 1},
                    "retryable": True, "retry_after_ms": 5}
            error = errors.refusal(info, "m", "a.b")
            self.assertIs(type(error), kind)
            self.assertEqual((error.code, error.reason, error.details["n"]), (code, "r", 1))
            self.assertEqual((error.retryable, error.retry_after_ms), (True, 5))
            self.assertEqual((str(error), error.method), (f"m ({code})", "a.b"))

    def test_a_code_of_the_future_is_a_refusal_with_that_code(self) -> None:
        error = errors.refusal({"code": "E_TOO_HOT", "message": "m"}, None, None)
        self.assertIs(type(error), kairo.Refused)
        self.assertEqual((error.code, error.reason, error.retryable), ("E_TOO_HOT", "", False))

    def test_an_error_of_another_shape_is_not_the_protocol(self) -> None:
        for info in ([], {"code": 1, "message": "m"}, {"code": "E"}, {"message": "m"},
                     {"code": "E", "message": "m", "details": []},
                     {"code": "E", "message": "m", "retry_after_ms": "soon"}):
            with self.assertRaises(kairo.WrongShape):
                errors.refusal(info, None, None)

    def test_both_ways_of_being_late_are_timeouts(self) -> None:
        self.assertTrue(issubclass(kairo.Timeout, TimeoutError))
        self.assertTrue(issubclass(kairo.DeadlineExceeded, TimeoutError))
        self.assertTrue(issubclass(kairo.ConnectionLost, ConnectionError))


class Endpoints(unittest.TestCase):
    def test_the_nearest_variable_wins(self) -> None:
        find = endpoint.from_environment
        self.assertEqual(find({}), endpoint.Endpoint(path="/run/kairo/kernel.sock"))
        variables = {"KAIRO_RUN_DIR": "/tmp/x"}
        self.assertEqual(find(variables).path, "/tmp/x/kernel.sock")
        variables["KAIRO_IPC_SOCKET"] = "/tmp/s"
        self.assertEqual(find(variables).path, "/tmp/s")
        variables["KAIRO_IPC_FD"] = "7"
        self.assertEqual(find(variables).descriptor, 7)
        self.assertFalse(find(variables).can_reconnect)

    def test_standard_streams_and_foreign_addresses_are_refused(self) -> None:
        for text in ("0", "2", "x", "-3", "7x", "٧"):
            with self.assertRaises(kairo.EndpointError):
                endpoint.from_environment({"KAIRO_IPC_FD": text})
        for text in ("tcp:192.0.2.1:80", "tcp:localhost:80", "tcp:127.0.0.1", "tcp:127.0.0.1:x",
                     "tcp:127.0.0.1:70000"):
            with self.assertRaises(kairo.EndpointError):
                endpoint.parse(text)
        self.assertEqual(str(endpoint.parse("tcp:127.0.0.1:7000")), "tcp:127.0.0.1:7000")
        self.assertEqual(endpoint.parse("tcp:[::1]:7000").tcp, ("::1", 7000))

    def test_nobody_there_is_said_with_the_path(self) -> None:
        with self.assertRaises(kairo.CannotConnect) as caught:
            kairo.Client("/nowhere/kernel.sock")
        self.assertIn("/nowhere/kernel.sock", str(caught.exception))


class Schemas(unittest.TestCase):
    def problem(self, **params: object) -> str:
        method = Method("device.send", "Sends.", "actuate", SEND, {})
        try:
            method.check(params)
        except kairo.InvalidParams as error:
            return error.message
        return ""

    def test_right_parameters_pass(self) -> None:
        self.assertEqual(self.problem(device="arm", ttl_ms=5), "")
        for positions in ({"a": 1, "b": -0.5}, [1, 2.5], (1, 2), None):
            self.assertEqual(self.problem(device="arm", ttl_ms=5, positions=positions), "")
        self.assertEqual(self.problem(device="arm", ttl_ms=5.0, mode="stop"), "")

    def test_a_wrong_parameter_is_named_with_the_form_expected(self) -> None:
        self.assertIn("`device` must be string", self.problem(device=5, ttl_ms=5))
        self.assertIn("`ttl_ms` is missing", self.problem(device="arm"))
        self.assertIn("`ttl_ms` must be at least 0", self.problem(device="arm", ttl_ms=-1))
        self.assertIn("`ttl_ms` must be integer", self.problem(device="arm", ttl_ms=True))
        self.assertIn("did you mean `device`?", self.problem(devcie="arm"))
        self.assertIn("`mode`", self.problem(device="arm", ttl_ms=5, mode="fly"))
        positions = {"a": "up"}
        self.assertIn("`positions.a`", self.problem(device="arm", ttl_ms=5, positions=positions))

    def test_keywords_of_the_future_are_passed_over(self) -> None:
        self.assertIsNone(schema.first_problem(5, {"type": "integer", "multipleOfPi": True}))
        self.assertIsNone(schema.first_problem(5, {"$ref": "#/$defs/Lost"}))


class KeptTables(unittest.TestCase):
    ROW = {"name": "kernel.ping", "summary": "Answers.", "params": {}, "result": {}}
    ERRORS = [{"code": "E_BUSY", "reasons": [{"reason": "claimed", "remedy": "Wait."}]}]

    def test_a_good_copy_is_kept_and_served_methods_come_anew(self) -> None:
        tables = Tables()
        self.assertEqual(tables.question(), {})
        gone = {**self.ROW, "name": "vision.find", "served_by": 7}
        first = {"methods": [self.ROW, gone], "errors": self.ERRORS, "digest": "d",
                 "served_digest": "s"}
        self.assertEqual(sorted(tables.take(first)), ["kernel.ping", "vision.find"])
        self.assertEqual(tables.question(), {"digest": "d"})
        served = {**self.ROW, "name": "lidar.scan", "served_by": 9}
        again = {"unchanged": True, "methods": [served], "errors": [], "digest": "d"}
        self.assertEqual(sorted(tables.take(again)), ["kernel.ping", "lidar.scan"])
        info = {"code": "E_BUSY", "message": "m", "details": {"reason": "claimed"}}
        error = errors.refusal(info, None, None)
        self.assertEqual(tables.remedy(error), "Wait.")

    def test_a_kernel_that_does_not_know_the_parameter_is_not_sent_it(self) -> None:
        tables = Tables()
        tables.take({"methods": [self.ROW], "digest": "d"})
        self.assertEqual(tables.question(), {})


if __name__ == "__main__":
    unittest.main()
