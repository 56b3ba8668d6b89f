import { setTimeout as delay } from 'node:timers/promises';

/** Bounds every wait: a scenario that needs it has failed. */
export const patience = 60_000;

/** Asks until the answer is true, and returns it; for what the page has no event for. */
export async function until<T>(what: string, ask: () => T | Promise<T>, milliseconds = patience): Promise<Exclude<NonNullable<T>, false>> {
	let last: unknown;
	for (const end = Date.now() + milliseconds; ; await delay(50)) {
		last = await ask();
		if (last) {
			return last as Exclude<NonNullable<T>, false>;
		}
		if (Date.now() > end) {
			throw new Error(`waiting ${milliseconds / 1000} s for ${what}: in vain`);
		}
	}
}
