// Calls a test server with the JavaScript implementation of gRPC and prints what it saw as one JSON object.
// Usage: node client.mjs <host:port>

import * as grpc from '@grpc/grpc-js';

const same = (data) => data;
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure(), {
  'grpc.max_receive_message_length': -1,
});

const unary = (method, data, { metadata = new grpc.Metadata(), options = {}, start = () => {} } = {}) =>
  new Promise((resolve) => {
    let trailers;
    const call = client.makeUnaryRequest(`/t.T/${method}`, same, same, data, metadata, options, (error, answer) =>
      setImmediate(() => resolve({ code: error?.code ?? 0, details: error?.details, answer, trailers })),
    );
    call.on('status', (status) => (trailers = status.metadata.getMap()));
    start(call);
  });

const stream = (method, messages) =>
  new Promise((resolve) => {
    const call = client.makeBidiStreamRequest(`/t.T/${method}`, same, same, new grpc.Metadata(), {});
    const answers = [];
    call.on('data', (data) => answers.push(data));
    call.on('error', () => {});
    call.on('status', ({ code, details }) => resolve({ code, details, answers }));
    messages.forEach((message) => call.write(message));
    call.end();
  });

const soon = () => ({ deadline: Date.now() + 200 });
const seen = {};

seen.echo = (await unary('Echo', Buffer.from('abc'))).answer.toString();

const many = await Promise.all([...Array(500).keys()].map((number) => unary('Echo', Buffer.from(`${number}`))));
seen.many = many.every(({ answer }, number) => answer.toString() === `${number}`);

const large = Buffer.alloc(20 * 1024 * 1024, 'cornet');
seen.large = (await unary('Echo', large)).answer.equals(large);

const failed = await unary('Fail', Buffer.from('50% é\n'));
seen.failed = [failed.code, failed.details];
seen.unknown = (await unary('Nope', Buffer.alloc(0))).code;
seen.late = (await unary('Hang', Buffer.alloc(0), { options: soon() })).code;
seen.cancelled = (await unary('Hang', Buffer.alloc(0), { start: (call) => setTimeout(() => call.cancel(), 50) })).code;

const metadata = new grpc.Metadata();
metadata.set('tenant', 'a');
metadata.set('trace-bin', Buffer.from([0, 1, 255]));
metadata.set('x-request-id', 'js-1');
const told = await unary('Metadata', Buffer.alloc(0), { metadata });
const pairs = JSON.parse(told.answer.toString());
seen.metadata = ['tenant', 'trace-bin'].map((name) => pairs.find(([key]) => key === name)?.[1]);
seen.id = told.trailers['x-request-id'];

const chat = await stream('Chat', ['a', 'b', 'c'].map((text) => Buffer.from(text)));
seen.chat = [chat.code, chat.answers.join(' ')];
const total = await stream('Total', Array(100).fill(Buffer.alloc(10_000)));
seen.total = [total.code, total.answers.join(' ')];
const count = await stream('Count', [Buffer.from('1000 1000')]);
seen.count = [count.code, count.answers.length, count.answers.every((data) => data.length === 1000)];
const halfway = await stream('FailAfterOne', [Buffer.from('x')]);
seen.halfway = [halfway.code, halfway.details, halfway.answers.length];

console.log(JSON.stringify(seen));
client.close();
