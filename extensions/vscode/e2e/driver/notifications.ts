import type { Locator, Page } from 'playwright-core';

import { until } from './wait.ts';

/** Messages in the corner, with buttons, some with progress. */
export class Notifications {
	private readonly page: Page;

	constructor(page: Page) {
		this.page = page;
	}

	get all(): Locator {
		return this.page.locator('.notification-toast:visible');
	}

	with(text: string | RegExp): Locator {
		return this.all.filter({ hasText: text }).first();
	}

	/** Waits for a message and returns the whole of it. */
	async shows(text: string | RegExp): Promise<string> {
		const n = this.with(text);
		await n.waitFor();
		return (await n.locator('.notification-list-item-message').innerText()).trim();
	}

	/** Clicks a button of a message, e.g. Cancel of a progress. */
	async click(text: string | RegExp, button: string): Promise<void> {
		await this.button(text, button).click();
	}

	button(text: string | RegExp, button: string): Locator {
		return this.with(text).locator('.notification-list-item-buttons-container .monaco-button', { hasText: button });
	}

	async texts(): Promise<string[]> {
		return (await this.all.locator('.notification-list-item-message').allInnerTexts()).map(t => t.trim());
	}

	/** Waits until there is none; a progress that has ended stays for a moment. */
	async none(): Promise<void> {
		let now: string[] = [];
		try {
			await until('no message', async () => (now = await this.texts()).length === 0, 10_000);
		} catch (err) {
			throw new Error(`${(err as Error).message}; there is ${JSON.stringify(now)}`);
		}
	}

	/** Closes all there are. A progress that has ended may go by itself meanwhile. */
	async clear(): Promise<void> {
		await until('the messages to close', async () => {
			if (await this.all.count() === 0) {
				return true;
			}
			const soon = { timeout: 2000 };
			const first = this.all.first();
			await first.hover(soon).then(() => first.locator('.codicon-notifications-clear').click(soon)).catch(() => undefined);
			return false;
		});
	}
}
